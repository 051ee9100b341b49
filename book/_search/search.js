/* Ranks the entries of the book (from finder.py) for a question and shows the best, each with a piece of
   its prose. Sphinx's searchtools.js has the page, and calls this before it begins; what
   its language_data.js knows of English is used here as well. */
window.installBookSearch = function (Search) {
    "use strict";
    var search = null; // language_data.js has yet to come
    Search.query = function (question) {
        search = search || bookSearch(Search);
        search(question);
    };
};
function bookSearch(Search) {
    "use strict";
    var CHINESE = document.documentElement.lang.indexOf("zh") === 0;
    var LONGEST = CHINESE ? 90 : 220, MOST = 25;
    // Words that many questions begin with, and that Sphinx takes for words
    var EMPTY = ["why", "how", "what", "when", "which", "who", "do", "does", "i", "my", "one", "you", "can"];
    var EMPTY_CHINESE = /为什么|为何|怎么样|怎么|怎样|如何|什么是|是什么|什么|哪里|哪个|哪些|多少|可以|的|了|吗|呢/g;
    var SAYS = CHINESE ? {
        title: "搜索结果", best: function (n) { return "最相关的" + n + "处。"; }, one: "找到1处。",
        many: function (n) { return "找到" + n + "处，最相关的在前。"; },
        none: "书中没有这些词。换成一个词，或者换一种说法，也许就能找到。"
    } : {
        title: "Search Results", best: function (n) { return "The best " + n + " places."; }, one: "One place.",
        many: function (n) { return n + " places, the best first."; },
        none: "Nothing in this book has these words. A single word, or another one for the same, may do."
    };
    var stemmer = new Stemmer(), stems = {};
    function stem(word) {
        if (!Object.hasOwn(stems, word)) stems[word] = stemmer.stemWord(word);
        return stems[word];
    }
    function termsOf(text) {
        var words = text.toLowerCase().replace(/√/g, " sqrt ").split(/[^\p{Letter}\p{Number}_]+/u);
        var found = [];
        words.forEach(function (piece) { piece.split(/(\p{Script=Han}+)/u).forEach(function (word) {
            if (/^\p{Script=Han}/u.test(word)) { found.push.apply(found, charactersOf(word)); return; }
            if (!word || stopwords.indexOf(word) !== -1 || EMPTY.indexOf(word) !== -1) return;
            found.push(stem(word));
            if (word.indexOf("_") > 0) word.split("_").forEach(function (part) { if (part) found.push(stem(part)); });
        }); });
        return found;
    }
    // Chinese is not cut into words: each character is one, and each two that stand side by side.
    function charactersOf(run) {
        var all = Array.from(run), found = all.slice();
        for (var i = 1; i < all.length; i++) found.push(all[i - 1] + all[i]);
        return found;
    }
    function counts(text) {
        var table = {};
        termsOf(text).forEach(function (term) { table[term] = (Object.hasOwn(table, term) ? table[term] : 0) + 1; });
        return table;
    }
    var documents = window.bookEntries.map(function (entry) {
        var text = counts(entry[4]), length = 0;
        Object.keys(text).forEach(function (term) { length += text[term]; });
        // A name such as d2lattn.Mask.causal is found by its parts, and by its words.
        var title = entry[2].replace(/\./g, " ").replace(/([a-z])([A-Z])/g, "$1 $2") + " " + entry[2].replace(/\./g, " ");
        return {entry: entry, text: text, title: counts(title), words: counts(entry[5]), length: length};
    });
    var mean = documents.reduce(function (sum, d) { return sum + d.length; }, 0) / documents.length;
    function has(table, term) { return Object.hasOwn(table, term) ? table[term] : 0; }
    // A word that is still being typed, or one that no entry has as it stands
    function sameBeginning(term) {
        var all = {};
        documents.forEach(function (d) {
            [d.title, d.words, d.text].forEach(function (table) {
                Object.keys(table).forEach(function (other) {
                    if (term.length > 2 && other.indexOf(term) === 0) all[other] = true;
                });
            });
        });
        return Object.keys(all);
    }
    // What is called as was asked comes first; exercises come behind what they are exercises in.
    function weight(d, terms) {
        var called = Object.keys(d.title);
        var same = called.length === terms.length && terms.every(function (t) { return has(d.title, t); });
        return (same ? 2 : 1) * (d.entry[6] ? 0.5 : 1);
    }
    function rank(question) {
        var terms = Array.from(new Set(termsOf(question.replace(EMPTY_CHINESE, " "))));
        if (!terms.length) terms = Array.from(new Set(question.toLowerCase().split(/\W+/).filter(Boolean).map(stem)));
        var groups = terms.map(function (term) {
            var known = documents.some(function (d) { return has(d.text, term) || has(d.title, term) || has(d.words, term); });
            return known ? [term] : sameBeginning(term);
        });
        var rarity = groups.map(function (group) {
            var n = documents.filter(function (d) {
                return group.some(function (t) { return has(d.text, t) || has(d.title, t) || has(d.words, t); });
            }).length;
            return n ? Math.log(1 + documents.length / n) : 0;
        });
        var whole = rarity.reduce(function (a, b) { return a + b; }, 0);
        return documents.map(function (d) {
            var score = 0, covered = 0;
            groups.forEach(function (group, i) {
                var best = 0;
                group.forEach(function (t) {
                    var n = has(d.text, t);
                    var body = n * 2.2 / (n + 1.2 * (0.25 + 0.75 * d.length / mean)); // as BM25 does
                    best = Math.max(best, body + (has(d.title, t) ? 2.5 : 0) + (has(d.words, t) ? 3 : 0));
                });
                if (best) covered += rarity[i];
                score += rarity[i] * best;
            });
            return {document: d, score: whole ? score * Math.pow(covered / whole, 2) * weight(d, terms) : 0, terms: groups.flat()};
        }).filter(function (result) { return result.score > 0; })
            .sort(function (a, b) { return b.score - a.score; }).slice(0, MOST);
    }
    // What was asked for, the longest first; a single character only if there is nothing longer
    function pattern(terms) {
        var longest = terms.filter(function (t) { return Array.from(t).length > 1; });
        var some = (longest.length ? longest : terms).slice().sort(function (a, b) { return b.length - a.length; });
        return new RegExp("(" + some.map(function (t) { return t.replace(/[^\p{Letter}\p{Number}]/gu, "\\$&"); }).join("|") + ")", "iu");
    }
    // Whole sentences around the first that has most of what was asked for
    function excerpt(text, terms) {
        var sentences = text.match(CHINESE ? /[^。！？]+[。！？]*”?/g : /[^.!?]+(?:[.!?](?=\S)[^.!?]*)*[.!?]*\s*/g) || [text];
        var gap = CHINESE ? "" : " ";
        var best = 0, most = -1;
        sentences.forEach(function (sentence, i) {
            var table = counts(sentence);
            var n = terms.filter(function (t) { return has(table, t); }).length;
            if (n > most) { most = n; best = i; }
        });
        var piece = sentences[best].trim();
        for (var i = best + 1; i < sentences.length && (piece + gap + sentences[i]).length < LONGEST; i++) {
            piece += gap + sentences[i].trim();
        }
        return piece.length > LONGEST * 1.5 ? piece.slice(0, LONGEST).replace(/\s\S*$/, "") + " …" : piece;
    }
    function show(result) {
        var entry = result.document.entry, root = document.documentElement.dataset.content_root || "./";
        var item = document.createElement("li"), link = document.createElement("a");
        link.href = root + entry[0] + (entry[1] ? "#" + entry[1] : "");
        link.textContent = entry[3] ? entry[3] + " › " + entry[2] : entry[2];
        item.append(link);
        var text = excerpt(entry[4], result.terms);
        if (text) {
            var context = document.createElement("p");
            context.className = "context";
            text.split(CHINESE ? pattern(result.terms) : /([\p{Letter}\p{Number}_]+)/u).forEach(function (part, i) {
                var hit = CHINESE ? i % 2 === 1
                    : part && /^[\p{Letter}\p{Number}_]/u.test(part) && result.terms.indexOf(stem(part.toLowerCase())) !== -1;
                var mark = document.createElement("mark");
                mark.textContent = part;
                context.append(hit ? mark : part);
            });
            item.append(context);
        }
        Search.output.append(item);
    }
    return function (question) {
        var results = rank(question);
        results.forEach(show);
        Search.stopPulse();
        Search.title.textContent = SAYS.title;
        Search.status.textContent = !results.length ? SAYS.none
            : results.length === MOST ? SAYS.best(MOST) : results.length === 1 ? SAYS.one : SAYS.many(results.length);
    };
}
