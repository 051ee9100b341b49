/* Makes the book on one page, as Sphinx builds it, ready for paper: a title and contents in front,
   each chapter under its name, the solutions behind everything. Called with the pages on which
   the places named in the contents begin, once they are known. */
async (pages) => {
    const article = document.querySelector("article");
    const SAYS = document.documentElement.lang.startsWith("zh") ? {
        solutions: "解答", answer: "答案", solution: "解答", contents: "目录",
        rights: "文字与图：CC BY 4.0。代码：MIT。", at: (page) => `：第${page}页`, on: (page) => `（第${page}页）`,
    } : {
        solutions: "Solutions", answer: "Answer", solution: "Solution", contents: "Contents",
        rights: "Text and figures: CC BY 4.0. Code: MIT.", at: (page) => `: page ${page}`, on: (page) => ` (page ${page})`,
    };
    const make = (tag, className, ...children) => {
        const element = document.createElement(tag);
        if (className) element.className = className;
        element.append(...children);
        return element;
    };
    const words = (heading) => {
        const copy = heading.cloneNode(true);
        copy.querySelectorAll(".headerlink").forEach((e) => e.remove());
        return [...copy.childNodes];
    };
    const titleOf = (section) => section.querySelector("h1, h2, h3, h4, h5");
    // A page that another one holds, such as a floor of the package, is a part of its own behind it.
    [...article.querySelectorAll("section .toctree-wrapper .toctree-wrapper > section")].reverse().forEach((page) => {
        const holder = page.parentElement.closest(".toctree-wrapper > section");
        page.classList.add("book-page");
        holder.after(page.previousElementSibling, page);
    });
    const chapters = [...article.querySelectorAll(".toctree-wrapper > section")];

    const prepare = () => {
        document.documentElement.dataset.mode = document.documentElement.dataset.theme = "light";
        document.querySelectorAll("details").forEach((e) => { e.open = true; });
        // The formulas are described by their MathML; on paper it would be printed over them.
        document.querySelectorAll("mjx-assistive-mml").forEach((e) => e.remove());
        chapters.forEach((chapter) => chapter.classList.add("book-part"));
        // A link to a file of the site, such as a figure's, leads nowhere from paper.
        article.querySelectorAll('a[href]:not([href^="#"], [href^="http"])').forEach((link) => {
            link.replaceWith(...link.childNodes);
        });
        // The label of a section would stay behind where the section goes to the next page.
        article.querySelectorAll("section > span:empty + :is(h2, h3, h4, h5)").forEach((heading) => {
            heading.prepend(heading.previousElementSibling);
        });
        article.querySelectorAll("dl.py p.rubric + p").forEach((text) => {
            text.prepend(make("b", "", ...text.previousElementSibling.childNodes, ": "));
            text.previousElementSibling.remove();
        });
        for (const signature of article.querySelectorAll("dt.sig:has(.sig-line)")) {
            const lines = [...signature.querySelectorAll(".sig-line")];
            lines[0].previousSibling.remove();
            lines.at(-1).nextSibling.remove();
            lines.at(-1).lastChild.remove(); // a comma
        }
    };

    // A link leads to "#document-<page>#<name>", or to a name on its own page; there are names,
    // such as "exercises", that many pages have. Here each gets one of its own.
    const joinPages = () => {
        const pageOf = (part) => {
            const anchor = part.previousElementSibling;
            if (!anchor || !anchor.id.startsWith("document-")) return "";
            part.prepend(anchor); // between two chapters it would ask for a sheet
            return anchor.id;
        };
        const parts = new Map(chapters.map((chapter) => [pageOf(chapter), chapter]));
        const taken = new Set();
        const renamed = new Map();
        const nameAll = (page, elements) => {
            const names = new Map();
            for (const element of elements) {
                const name = element.id;
                if (taken.has(name)) element.id = page.replace("document-", "") + "--" + name;
                taken.add(element.id);
                if (!names.has(name)) names.set(name, element.id);
            }
            renamed.set(page, names);
        };
        parts.forEach((part, page) => nameAll(page, [part, ...part.querySelectorAll("[id]")]));
        const others = [...article.querySelectorAll("[id]")].filter((e) => !e.closest(".book-part"));
        nameAll("", others);
        for (const link of article.querySelectorAll('a[href^="#"]')) {
            const [first, second] = decodeURIComponent(link.getAttribute("href").slice(1)).split("#");
            const leaves = first.startsWith("document-");
            const here = [...parts].find(([, part]) => part.contains(link));
            const page = leaves ? (parts.has(first) ? first : "") : here ? here[0] : "";
            const name = leaves ? second || (parts.get(page) || article.firstElementChild).id : first;
            link.setAttribute("href", "#" + (renamed.get(page).get(name) || name));
        }
    };

    // Each page says at its foot which chapter it belongs to.
    const nameParts = (parts) => {
        const rules = parts.map((part, number) => {
            part.style.page = "part-" + number;
            const title = make("i", "", ...words(titleOf(part))).textContent.trim();
            return `@page part-${number} { @bottom-left { content: ${JSON.stringify(title)};`
                + " font: 8.5pt sans-serif; color: #555; } }";
        });
        document.head.append(make("style", "", rules.join("\n")));
    };

    // What the checks say before there is an answer
    const dropEmptyAnswers = () => {
        const outputs = [...article.querySelectorAll(".cell_output")];
        outputs.filter((e) => e.textContent.trim().startsWith("○")).forEach((e) => e.remove());
    };

    // A quiz keeps its question and what may be answered; the verdicts go to the solutions.
    const answersOf = (quiz) => {
        const options = [...quiz.querySelectorAll("details.option")];
        const choices = options.map((option) => {
            const words = option.querySelector("summary").cloneNode(true).childNodes;
            return make("li", "", ...words);
        });
        quiz.append(make("ol", "choices", ...choices));
        return options;
    };

    const moveSolutions = () => {
        const back = make("section", "book-part solutions", make("h2", "", SAYS.solutions));
        back.id = "all-solutions";
        let chapter = null, exercise = null;
        const told = new Set(); // exercises that say where their solution is
        for (const found of article.querySelectorAll(".quiz, details.solution")) {
            const home = found.closest(".book-part");
            const section = found.closest("section");
            const isQuiz = found.matches(".quiz");
            if (home !== chapter) back.append(make("h3", "", ...words(titleOf(home))));
            if (section !== exercise) {
                const title = make("h4", "", ...words(titleOf(section)));
                title.id = "solution-of-" + section.id;
                back.append(title);
            }
            const link = make("a", "", isQuiz ? SAYS.answer : SAYS.solution, make("span", "", SAYS.at("000")));
            link.href = "#solution-of-" + section.id;
            const line = make("p", "to-solution", link);
            if (isQuiz) {
                back.append(...answersOf(found));
                found.append(line);
            } else {
                if (!told.has(section)) found.before(line);
                told.add(section);
                const code = found.nextElementSibling;
                back.append(found);
                if (code && code.matches(".cell.tag_hide-cell")) back.append(code);
            }
            chapter = home;
            exercise = section;
        }
        if (chapter) article.append(back);
        return back;
    };

    // A link to a chapter or a section says on which page it begins; as yet, how much room that takes.
    const addPages = () => {
        for (const link of article.querySelectorAll('section a[href^="#"]:not(.headerlink)')) {
            const target = document.getElementById(decodeURIComponent(link.getAttribute("href").slice(1)));
            const begins = target && target.matches("section, section > :is(h2, h3, h4, h5) > span:empty");
            if (begins && link.textContent) link.append(make("span", "on-page", SAYS.on("000")));
        }
    };

    const addTitle = (parts) => {
        const home = article.querySelector("section");
        const title = titleOf(home);
        const list = make("ol");
        const entry = (section, level) => {
            const heading = titleOf(section);
            const link = make("a", "", make("span", "", ...words(heading)), make("b", ""));
            link.href = "#" + section.id;
            list.append(make("li", level, link));
        };
        for (const part of parts) {
            entry(part, part.matches(".book-page") ? "level-2" : "level-1");
            if (/^\d/.test(titleOf(part).textContent)) {
                part.querySelectorAll(":scope > section").forEach((e) => entry(e, "level-2"));
            }
        }
        const mark = make("img", "mark");
        mark.src = document.querySelector(".navbar-brand img, link[rel~=icon]").src
            || document.querySelector("link[rel~=icon]").href;
        mark.alt = "";
        const rights = make("p", "", SAYS.rights);
        const front = make("div", "book-title", mark, title, rights);
        const contents = make("nav", "book-contents", make("h2", "", SAYS.contents), list);
        home.classList.add("book-home");
        home.before(front, contents);
    };

    // Page numbers are known after a first printing.
    if (pages) {
        const pageOf = (link) => pages[decodeURIComponent(link.getAttribute("href").slice(1))];
        article.querySelectorAll(".book-contents a").forEach((link) => {
            link.querySelector("b").textContent = pageOf(link) || "";
        });
        article.querySelectorAll(".to-solution a").forEach((link) => {
            link.querySelector("span").textContent = SAYS.at(pageOf(link));
        });
        article.querySelectorAll("a > .on-page").forEach((where) => {
            const page = pageOf(where.parentElement);
            where.textContent = page ? SAYS.on(page) : "";
        });
        return;
    }
    prepare();
    dropEmptyAnswers();
    joinPages();
    addPages();
    const parts = [...chapters, moveSolutions()];
    addTitle(parts);
    nameParts(parts);
    for (const image of document.images) { image.loading = "eager"; await image.decode(); }
    await document.fonts.ready;
}
