/* Laboratory of chapter 9: two trained models read a date, and show where they look. */
(function (labs) {
  "use strict";

  var BEGIN = 1, END = 2, FIRST = 3; // tokens; the characters come after them
  var MOST = 12; // characters that are written, at most

  var dates = labs.dates = {
    /* What `d2lattn.packed` made: each tensor in rows of its last axis */
    unpack: function (packed, characters) {
      var model = {}, middle = (characters.length - 1) / 2;
      Object.keys(packed).forEach(function (name) {
        var numbers = packed[name].numbers.split("").map(function (character) {
          return (characters.indexOf(character) - middle) * packed[name].unit;
        });
        var width = packed[name].width, rows = [];
        for (var start = 0; start < numbers.length; start += width) {
          rows.push(numbers.slice(start, start + width));
        }
        model[name] = rows;
      });
      return model;
    },

    /* Greedy decoding, as `write_greedily`: the characters, the weights of each on those of the
       text, and the probability of it all. Every character has to be one of the letters. */
    write: function (model, text, letters, iso) {
      var h = outputs(model, tokens(text, letters));
      var score = scoring(model, h.outputs);
      var s = matrix(model["decoder.bridge.weight"], h.state, model["decoder.bridge.bias"][0])
        .map(tanh);
      var previous = BEGIN, found = { text: "", weights: [], probability: 1 };
      for (var step = 0; step < MOST; step += 1) {
        var weights = labs.softmax(score(s));
        var c = average(weights, h.outputs);
        s = gru(model, "decoder.cell.", "", model["decoder.embedding.weight"][previous].concat(c), s);
        var logits = matrix(model["decoder.dense.weight"], s.concat(c), model["decoder.dense.bias"][0]);
        logits[0] = logits[BEGIN] = -Infinity; // padding and the beginning are never written
        var shares = labs.softmax(logits);
        previous = shares.indexOf(Math.max.apply(null, shares));
        found.probability *= shares[previous];
        if (previous === END) { break; }
        found.text += iso[previous - FIRST];
        found.weights.push(weights);
      }
      return found;
    },

    /* The same from packed weights */
    written: function (packed, characters, text, letters, iso) {
      return dates.write(dates.unpack(packed, characters), text, letters, iso);
    },

    /* The characters of a text that the models do not know */
    strangers: function (text, letters) {
      return text.split("").filter(function (character, i, all) {
        return letters.indexOf(character) < 0 && all.indexOf(character) === i;
      });
    },

    /* Weight on the very characters that are copied, mean over them; `places` has one for each
       character that is written, -1 where none is copied */
    onCharacter: function (weights, places) {
      var copied = places.map(function (place, step) {
        return place < 0 ? -1 : weights[step] ? weights[step][place] : 0;
      }).filter(function (weight) { return weight >= 0; });
      return labs.sum(copied) / copied.length;
    },

    isDay: function (text) {
      if (!/^\d{4}-\d\d-\d\d$/.test(text)) { return false; }
      var day = new Date(text + "T00:00:00Z");
      return !isNaN(day) && day.toISOString().slice(0, 10) === text;
    }
  };

  function tokens(text, letters) {
    return text.split("").map(function (character) { return FIRST + letters.indexOf(character); });
  }

  function tanh(x) {
    if (Math.abs(x) > 20) { return x < 0 ? -1 : 1; }
    var up = Math.exp(2 * x);
    return (up - 1) / (up + 1);
  }

  function sigmoid(x) { return 1 / (1 + Math.exp(-x)); }

  function matrix(rows, vector, bias) {
    var result = new Array(rows.length);
    for (var i = 0; i < rows.length; i += 1) {
      var row = rows[i], total = bias ? bias[i] : 0;
      for (var j = 0; j < row.length; j += 1) { total += row[j] * vector[j]; }
      result[i] = total;
    }
    return result;
  }

  function average(weights, vectors) {
    return vectors[0].map(function (_, i) {
      var total = 0;
      for (var j = 0; j < weights.length; j += 1) { total += weights[j] * vectors[j][i]; }
      return total;
    });
  }

  /* A gated recurrent unit, with PyTorch's names and order: reset, update, new */
  function gru(model, prefix, suffix, x, h) {
    function part(name) { return model[prefix + name + suffix]; }
    var n = h.length;
    var from_x = matrix(part("weight_ih"), x, part("bias_ih")[0]);
    var from_h = matrix(part("weight_hh"), h, part("bias_hh")[0]);
    return h.map(function (old, i) {
      var reset = sigmoid(from_x[i] + from_h[i]);
      var update = sigmoid(from_x[n + i] + from_h[n + i]);
      var fresh = tanh(from_x[2 * n + i] + reset * from_h[2 * n + i]);
      return (1 - update) * fresh + update * old;
    });
  }

  /* What the encoder makes of a text: there, back, both side by side, and the last state of each */
  function outputs(model, text) {
    var vectors = text.map(function (token) { return model["encoder.embedding.weight"][token]; });
    function read(vectors, suffix) {
      var h = model["encoder.rnn.weight_hh" + suffix][0].map(function () { return 0; });
      return vectors.map(function (x) {
        h = gru(model, "encoder.rnn.", suffix, x, h);
        return h;
      });
    }
    var there = read(vectors, "_l0");
    var back = read(vectors.slice().reverse(), "_l0_reverse").reverse();
    return {
      outputs: there.map(function (h, i) { return h.concat(back[i]); }),
      state: there[there.length - 1].concat(back[0])
    };
  }

  /* Scores of a query with all keys; keys are projected once */
  function scoring(model, keys) {
    var W_k = model["decoder.attention.score.W_k.weight"];
    if (!W_k) {
      return function (query) {
        return matrix(keys, query).map(function (score) { return score / Math.sqrt(query.length); });
      };
    }
    var w_v = model["decoder.attention.score.w_v.weight"][0];
    var projected = keys.map(function (key) { return matrix(W_k, key); });
    return function (query) {
      var q = matrix(model["decoder.attention.score.W_q.weight"], query);
      return projected.map(function (k) {
        var total = 0;
        for (var i = 0; i < q.length; i += 1) { total += w_v[i] * tanh(q[i] + k[i]); }
        return total;
      });
    };
  }

  var LONGEST = 40; // characters that may be typed
  var LEFT = 34, HEAD = 20, ROW = 17, ROWS = 10, COLUMNS = 30; // of a heat map
  var UNSEEN = 0.5 / 255; // a weight that leaves each colour as it is

  function build(data, body) {
    var state = {}, read = {};
    var models = data.models.map(function (model) {
      return { name: labs.say(model.name), weights: dates.unpack(model.weights, data.characters) };
    });

    function begin() {
      state.day = 0;
      state.language = data.start[0];
      state.form = data.start[1];
      state.row = data.start[2];
      fromChoice();
    }
    function fromChoice() { state.text = chosen()[0]; }
    function chosen() { return data.texts[state.day][state.language][state.form]; }

    var language = labs.choice(labs.say("language"), pairs(data.languages), "", function (value) {
      state.language = Number(value);
      pick();
    });
    var form = labs.choice(labs.say("format"), pairs(data.forms.map(function (form) {
      return labs.say(form);
    })), "", function (value) {
      state.form = Number(value);
      pick();
    });
    var day = labs.slider(labs.say("day"), {
      min: 0, max: data.days.length - 1, step: 1, value: 0,
      text: function (number) { return data.days[number]; }
    }, function (number) { state.day = number; pick(); });
    day.className += " lab-long";
    var field = labs.field(labs.say("what is read"), LONGEST, function (text) {
      state.text = text;
      draw();
    });
    var strange = labs.buttons(data.strange.map(function (text) {
      return labs.button(text, function () { state.text = text; show(); });
    }));
    var row = labs.slider(labs.say("row"), {
      min: 1, max: ROWS, step: 1, value: 1, colour: "query",
      text: function (number) {
        return labs.say("{number} of {all}", { number: number, all: ROWS });
      }
    }, function (number) { state.row = number - 1; draw(); });
    var cells = models.map(function () { // of one model: what it writes, how likely, how right
      return [labs.cell({ "class": "lab-whole" }), labs.cell(), labs.cell()];
    });
    var names = [labs.say("writes"), labs.say("probability"), labs.say("on the true characters")];
    var table = labs.table(labs.say("What each model writes"), [
      labs.html("tr", {}, [labs.html("td")].concat(names.map(function (name) {
        return labs.html("th", { scope: "col" }, [name]);
      })))
    ].concat(models.map(function (model, i) {
      return labs.html("tr", {}, [labs.html("th", { scope: "row" }, [model.name])].concat(cells[i]));
    })));
    var summary = labs.summary();
    var reset = labs.button(labs.say("Start again"), function () { begin(); show(); });
    var pictures = models.map(function (model, i) {
      var label = labs.say(
        "{model}: weights of each character written on the characters that are read",
        { model: model.name }
      );
      var picture = labs.drawing(label, height, function (width) { return heatmap(i, width); });
      picture.addEventListener("click", function (event) { // a row, by mouse or finger
        var at = Math.floor((event.clientY - picture.getBoundingClientRect().top - HEAD - 20) / ROW);
        state.row = Math.max(0, Math.min(ROWS - 1, at));
        row.set(state.row + 1);
        draw();
      });
      return picture;
    });
    [language, form, day, field, strange, row].concat(pictures.map(function (picture) {
      return labs.html("div", {}, [picture]); // as wide as what it is drawn in
    }), [table.place, summary, reset]).forEach(function (part) { body.appendChild(part); });

    function pick() { fromChoice(); field.set(state.text); draw(); }

    function show() {
      language.set(String(state.language));
      form.set(String(state.form));
      day.set(state.day);
      row.set(state.row + 1);
      field.set(state.text);
      draw();
    }

    /* Where each character of the date stands in the text; nothing where nobody told the page */
    function truth() {
      for (var i = 0; i < data.texts.length; i += 1) {
        for (var j = 0; j < data.languages.length; j += 1) {
          for (var k = 0; k < data.forms.length; k += 1) {
            var known = data.texts[i][j][k];
            if (known[0] === state.text) { return { iso: data.days[i], places: known[1] }; }
          }
        }
      }
      return null;
    }

    function readAll() {
      if (read.text === state.text) { return; }
      var strangers = dates.strangers(state.text, data.letters);
      var readable = state.text && !strangers.length;
      read = {
        text: state.text, strangers: strangers, truth: truth(),
        found: models.map(function (model) {
          return readable ? dates.write(model.weights, state.text, data.letters, data.iso)
            : { text: "", weights: [], probability: NaN };
        })
      };
    }

    function height() {
      return 20 + HEAD + ROW * Math.max(ROWS, Math.max.apply(null, read.found.map(function (one) {
        return one.text.length;
      }))) + 2;
    }

    /* As many parts as a long text needs, for each text: what is not there has no width, nor has
       what nobody would see, most of a picture, so that little changes from text to text. */
    function heatmap(which, width) {
      var found = read.found[which], columns = Math.max(COLUMNS, state.text.length);
      var each = Math.min(36, (width - LEFT - 2) / Math.max(1, state.text.length));
      var size = Math.min(13, 1.3 * each).toFixed(1), top = HEAD + 20, parts = [];
      var rows = Math.max(ROWS, found.text.length);
      parts.push(labs.text(models[which].name, LEFT, 14, { "font-weight": 600 }));
      for (var j = 0; j < columns; j += 1) {
        var there = j < state.text.length;
        parts.push(labs.text(there ? state.text[j] : "", there ? LEFT + (j + 0.5) * each : LEFT, top - 5, {
          "text-anchor": "middle", style: there ? "font-size: " + size + "px" : ""
        }));
      }
      for (var i = 0; i < rows; i += 1) {
        var y = top + i * ROW, weights = found.weights[i] || [];
        parts.push(labs.text(found.text[i] || "", LEFT - 10, y + ROW - 4, {
          "text-anchor": "middle", "font-weight": i === state.row ? 700 : 400
        }));
        for (j = 0; j < columns; j += 1) {
          var seen = weights[j] > UNSEEN;
          parts.push(labs.svg("rect", labs.merge({
            x: seen ? (LEFT + j * each).toFixed(2) : LEFT, y: y,
            width: seen ? each.toFixed(2) : 0, height: ROW
          }, labs.red(seen ? weights[j] : 0))));
        }
      }
      for (i = 0; i < ROWS; i += 1) { // the true ones
        var place = read.truth ? read.truth.places[i] : -1;
        parts.push(labs.svg("rect", {
          x: (LEFT + Math.max(0, place) * each + 1).toFixed(2), y: top + i * ROW + 1,
          width: place < 0 ? 0 : Math.max(1, each - 2).toFixed(2), height: ROW - 2, "class": "lab-true"
        }));
      }
      parts.push(labs.svg("rect", {
        x: LEFT, y: top, width: (each * state.text.length).toFixed(2), height: rows * ROW,
        "class": "lab-frame"
      }));
      parts.push(labs.query(11, top + state.row * ROW + ROW / 2 + 1));
      return parts;
    }

    function draw() {
      readAll();
      pictures.forEach(function (picture) { picture.redraw(); });
      read.found.forEach(function (one, i) {
        [
          one.text ? marked(one.text) : labs.say("nothing"),
          one.text ? labs.format(one.probability, 2) : "\u2013",
          one.text && read.truth
            ? labs.format(dates.onCharacter(one.weights, read.truth.places), 2)
            : labs.say("not known")
        ].forEach(function (text, column) { cells[i][column].show(text); });
      });
      summary.say(sentence());
    }

    function marked(text) {
      if (!read.truth) {
        return dates.isDay(text) ? text : labs.say("{text} \u2717 no date", { text: text });
      }
      return text + (text === read.truth.iso ? " \u2713" : " \u2717");
    }

    function sentence() {
      if (read.strangers.length) {
        return labs.say(
          "The models do not know \u201c{characters}\u201d: no training text had it, and " +
          "nothing is read.", { characters: read.strangers.join(labs.say("\u201d, \u201c")) }
        );
      }
      if (!state.text) { return labs.say("Nothing is read. Type a date, or choose one."); }
      return labs.say("Row {row}: {looks}. {verdict}", {
        row: state.row + 1, looks: models.map(looks).join(labs.say("; ")), verdict: verdict()
      });
    }

    function looks(model, i) {
      var one = read.found[i], weights = one.weights[state.row];
      if (!weights) { return labs.say("{model} has ended before", { model: model.name }); }
      var most = Math.max.apply(null, weights), at = weights.indexOf(most);
      return labs.say(
        "{model} writes {written} and looks most at {character} (character {place}, weight " +
        "{weight})", {
          model: model.name, written: one.text[state.row],
          character: state.text[at] === " " ? labs.say("a space") : state.text[at],
          place: at + 1, weight: labs.format(most, 2)
        }
      );
    }

    function verdict() {
      var texts = read.found.map(function (one) { return one.text; });
      if (read.truth) {
        var place = read.truth.places[state.row];
        return place < 0 ? labs.say("Nothing is copied in this row.")
          : labs.say("The true place of this digit is character {place}.", { place: place + 1 });
      }
      return labs.say("This text is none of those that the page knows the answer to. {doubt}", {
        doubt: doubt(texts)
      });
    }

    function doubt(texts) {
      var failed = models.filter(function (_, i) { return !dates.isDay(texts[i]); });
      var said = {
        models: failed.map(function (model) { return model.name; }).join(labs.say(" and "))
      };
      if (failed.length > 1) {
        return labs.say("But {models} write no date, and no model says so.", said);
      }
      if (failed.length) {
        return labs.say("But {models} writes no date, and no model says so.", said);
      }
      if (texts[0] !== texts[1]) {
        return labs.say("But the models differ: at least one of them is wrong.");
      }
      return labs.say("Both models answer, and neither says whether it has ever seen such a form.");
    }

    begin();
    return show;
  }

  /* For a choice: the number of each name as its value */
  function pairs(names) {
    return names.map(function (name, i) { return [String(i), name]; });
  }

  labs.mount("dates", labs.say("Laboratory: where two models look"), build);
})(window.houseLabs);
