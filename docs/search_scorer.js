// Ranks the results of the search: pages that explain come before the reference, and the reference before decisions.
var Scorer = {
    score: ([page, title, anchor, description, score]) => score * weightOf(page),
    objNameMatch: 11,
    objPartialMatch: 6,
    objPrio: {0: 15, 1: 5, 2: -5},
    objPrioDefault: 0,
    title: 15,
    partialTitle: 7,
    term: 5,
    partialTerm: 2,
};

const weightOf = (page) => {
    if (page.startsWith("decisions/")) return 0.3;
    if (page.startsWith("api/") || page === "rooms") return 0.6;
    if (page.startsWith("gallery/") || page.startsWith("coming_from/")) return 0.8;
    return 1;
};
