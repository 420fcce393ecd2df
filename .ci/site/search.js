// Prints what Sphinx's own search finds in a built site, the best first: node search.js SITE QUERY...
const fs = require("fs"), vm = require("vm");
const [site, ...queries] = process.argv.slice(2);

const page = {_ready: () => {}, _: (text) => text, SPHINX_HIGHLIGHT_ENABLED: false, document: {getElementById: () => null}};
vm.createContext(page);
for (const script of ["_static/language_data.js", "_static/searchtools.js"])
    vm.runInContext(fs.readFileSync(`${site}/${script}`, "utf8"), page);
vm.runInContext("globalThis.Search = Search", page);
vm.runInContext(fs.readFileSync(`${site}/searchindex.js`, "utf8"), page);

const find = (query) => page.Search._performSearch(...page.Search._parseQuery(query)).reverse();
const found = queries.map((query) => find(query).map(([name, , anchor]) => name + anchor));
console.log(JSON.stringify(found));
