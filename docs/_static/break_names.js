// Lets long names in tables break after a dot, an underscore and the like, so that a phone shows all columns.
document.addEventListener("DOMContentLoaded", () => {
    for (const name of document.querySelectorAll("td code .pre")) {
        const parts = name.textContent.split(/(?<=[._=(,\/])(?=\w)/);
        name.replaceChildren(...parts.flatMap((part) => [part, document.createElement("wbr")]));
    }
});
