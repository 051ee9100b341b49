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
    var LONGEST = 220, MOST = 25;
    // Words that many questions begin with, and that Sphinx takes for words
    var EMPTY = ["why", "how", "what", "when", "which", "who", "do", "does", "i", "my", "one", "you", "can"];
    var stemmer = new Stemmer(), stems = {};
    function stem(word) {
        if (!Object.hasOwn(stems, word)) stems[word] = stemmer.stemWord(word);
        return stems[word];
    }
    function termsOf(text) {
        var words = text.toLowerCase().replace(/√/g, " sqrt ").split(/[^\p{Letter}\p{Number}_]+/u);
        var found = [];
        words.forEach(function (word) {
            if (!word || stopwords.indexOf(word) !== -1 || EMPTY.indexOf(word) !== -1) return;
            found.push(stem(word));
            if (word.indexOf("_") > 0) word.split("_").forEach(function (part) { if (part) found.push(stem(part)); });
        });
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
        var terms = Array.from(new Set(termsOf(question)));
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
    // Whole sentences around the first that has most of what was asked for
    function excerpt(text, terms) {
        var sentences = text.match(/[^.!?]+(?:[.!?](?=\S)[^.!?]*)*[.!?]*\s*/g) || [text];
        var best = 0, most = -1;
        sentences.forEach(function (sentence, i) {
            var table = counts(sentence);
            var n = terms.filter(function (t) { return has(table, t); }).length;
            if (n > most) { most = n; best = i; }
        });
        var piece = sentences[best].trim();
        for (var i = best + 1; i < sentences.length && (piece + " " + sentences[i]).length < LONGEST; i++) {
            piece += " " + sentences[i].trim();
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
            text.split(/([\p{Letter}\p{Number}_]+)/u).forEach(function (part) {
                var hit = part && /^[\p{Letter}\p{Number}_]/u.test(part) && result.terms.indexOf(stem(part.toLowerCase())) !== -1;
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
        Search.title.textContent = "Search Results";
        Search.status.textContent = results.length
            ? (results.length === MOST ? "The best " + MOST + " places." : results.length === 1 ? "One place." : results.length + " places, the best first.")
            : "Nothing in this book has these words. A single word, or another one for the same, may do.";
    };
}
