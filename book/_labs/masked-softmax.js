/* Laboratory of chapter 3: three ways to hide padding, in two number formats. */
(function (labs) {
  "use strict";

  var LARGEST_HALF = 65504, SMALLEST_EXPONENT = -14; // of normal float16 numbers
  var HIDDEN = -1e6;

  var masked = labs.maskedSoftmax = {
    /* The nearest float32, then the nearest float16 of a number; halves go to the even neighbour */
    toSingle: function (number) { return new Float32Array([number])[0]; },

    toHalf: function (number) {
      var size = Math.abs(number);
      if (size === 0 || !isFinite(size)) { return number; }
      if (size >= LARGEST_HALF + 16) { return number < 0 ? -Infinity : Infinity; }
      var exponent = Math.floor(Math.log(size) / Math.LN2);
      if (Math.pow(2, exponent) > size) { exponent -= 1; }
      if (Math.pow(2, exponent + 1) <= size) { exponent += 1; }
      var unit = Math.pow(2, Math.max(exponent, SMALLEST_EXPONENT) - 10);
      var units = size / unit, whole = Math.floor(units), rest = units - whole;
      if (rest > 0.5 || (rest === 0.5 && whole % 2 === 1)) { whole += 1; }
      return number < 0 ? -whole * unit : whole * unit;
    },

    round: function (number, format) {
      return format === "float16" ? masked.toHalf(number) : masked.toSingle(number);
    },

    /* What goes into the softmax */
    filled: function (scores, valid, fill, format) {
      return scores.map(function (score, i) {
        if (i < valid || fill === "afterwards") { return masked.round(score, format); }
        return fill === "million" ? masked.round(HIDDEN, format) : -Infinity;
      });
    },

    /* Only `infinity` says what a row of nothing but minus infinity means: zeros. */
    weights: function (scores, valid, fill, format) {
      var filled = masked.filled(scores, valid, fill, format);
      var empty = Math.max.apply(null, filled) === -Infinity;
      return labs.softmax(filled).map(function (weight, i) {
        if (empty && fill !== "infinity") { return NaN; } // 0 / 0
        var rounded = masked.round(weight, format);
        return fill === "afterwards" && i >= valid ? 0 * rounded : rounded;
      });
    },

    /* Whether a valid score lies beyond what the format can hold */
    loses: function (scores, valid, format) {
      return scores.slice(0, valid).some(function (score) {
        return isFinite(score) && !isFinite(masked.round(score, format));
      });
    },

    /* What is wrong with weights, in words; nothing if they are those that the scores ask for */
    fault: function (weights, scores, valid, format) {
      var right = masked.weights(scores, valid, "infinity", "float32");
      var near = format === "float16" ? 5e-3 : 1e-6;
      if (weights.some(isNaN)) { return "nan"; }
      if (masked.loses(scores, valid, format) && labs.sum(weights) === 0) {
        return labs.say("{format} has lost the scores of the valid keys", { format: format });
      }
      var lost = labs.sum(weights.slice(valid));
      if (lost > near) {
        return labs.say("{lost} of the attention goes to padding", { lost: labs.format(lost, 2) });
      }
      var total = labs.sum(weights);
      if (Math.abs(total - labs.sum(right)) > near) {
        return labs.say("adds up to {total}, not to {right}", {
          total: labs.format(total, 2), right: labs.sum(right).toFixed(0)
        });
      }
      return "";
    }
  };

  var FILLS = [
    ["infinity", labs.say("fill with \u2212\u221e, empty rows are 0")],
    ["million", labs.say("fill with \u221210\u2076")],
    ["afterwards", labs.say("weights to 0 after the softmax")]
  ];
  var WAYS = { // the same, as a sentence begins with them
    infinity: labs.say("Filled with minus infinity"),
    million: labs.say("Filled with minus a million"),
    afterwards: labs.say("Set to zero afterwards")
  };
  var SHIFTS = [["0", labs.say("nothing")], ["-2000000", "\u22122 000 000"]];
  var FORMATS = [["float32", "float32"], ["float16", "float16"]];

  function build(data, body) {
    var count = data.cases[0].scores.length;
    var state = {};

    function take(start) {
      state.scores = start.scores.slice();
      state.shift = start.shift;
      state.valid = start.valid;
    }

    take(data.cases[0]);
    state.fill = FILLS[1][0];
    state.format = FORMATS[0][0];

    var starts = labs.buttons(data.cases.map(function (start) {
      return labs.button(labs.say(start.name), function () { take(start); show(); });
    }));
    var reset = labs.button(labs.say("Start again"), function () {
      take(data.cases[0]);
      state.fill = FILLS[1][0];
      state.format = FORMATS[0][0];
      fill.set(state.fill);
      format.set(state.format);
      show();
    });
    var sliders = state.scores.map(function (score, i) {
      return labs.slider(labs.say("score of key {number}", { number: i }), {
        min: -20, max: 20, step: 0.5, value: score,
        text: function (number) { return labs.format(number, 1); }
      }, function (number) { state.scores[i] = number; draw(); });
    });
    var valid = labs.slider(labs.say("valid length"), {
      min: 0, max: count, step: 1, value: state.valid, text: String
    }, function (number) { state.valid = number; draw(); });
    var shift = labs.choice(labs.say("added to every score"), SHIFTS, "0", function (value) {
      state.shift = Number(value);
      draw();
    });
    var format = labs.choice(labs.say("number format"), FORMATS, state.format, function (value) {
      state.format = value;
      draw();
    });
    var fill = labs.choice(labs.say("how padding is hidden"), FILLS, state.fill, function (value) {
      state.fill = value;
      draw();
    });
    fill.className += " lab-lines";
    var verdicts = FILLS.map(function (_, i) {
      var verdict = labs.html("span", { "class": "lab-verdict" });
      fill.querySelectorAll("label")[i].appendChild(verdict);
      return verdict;
    });
    var table = tableOf(count);
    var summary = labs.summary();
    [starts].concat(sliders, [
      valid, shift, format, fill, table.place, summary, reset
    ]).forEach(function (part) { body.appendChild(part); });

    function show() {
      sliders.forEach(function (slider, i) { slider.set(state.scores[i]); });
      valid.set(state.valid);
      shift.set(String(state.shift));
      draw();
    }

    function draw() {
      var scores = state.scores.map(function (score) { return score + state.shift; });
      var inside = masked.filled(scores, state.valid, state.fill, state.format);
      var weights = masked.weights(scores, state.valid, state.fill, state.format);
      FILLS.forEach(function (option, i) {
        var some = masked.weights(scores, state.valid, option[0], state.format);
        var fault = masked.fault(some, scores, state.valid, state.format);
        labs.write(verdicts[i], fault ? "\u2717 " + fault : labs.say("\u2713 right"));
      });
      table.show(inside, weights, state.valid);
      summary.say(sentence(scores, weights));
    }

    function sentence(scores, weights) {
      var told = verdict(scores, weights);
      return masked.loses(scores, state.valid, state.format)
        ? labs.say(
          "Scores this low are minus infinity in float16, before anything is hidden. " +
          "{verdict}", { verdict: told }
        )
        : told;
    }

    function verdict(scores, weights) {
      var fault = masked.fault(weights, scores, state.valid, state.format);
      var said = { way: WAYS[state.fill], format: state.format, fault: fault };
      if (fault === "nan") {
        return labs.say(
          "{way}, in {format}, this is wrong: all weights are nan, zero divided by zero.", said
        );
      }
      if (fault) { return labs.say("{way}, in {format}, this is wrong: {fault}.", said); }
      return labs.sum(weights) === 0
        ? labs.say("{way}, in {format}, this is right: no key, no weight.", said)
        : labs.say("{way}, in {format}, this is right: the valid keys share one unit.", said);
    }

    return draw;
  }

  /* A row for the scores, one for the weights, a column for each key; made once, then written on */
  function tableOf(count) {
    function several(make) {
      for (var all = [], i = 0; i < count; i += 1) { all.push(make(i)); }
      return all;
    }
    function row(name, cells) {
      return labs.html("tr", {}, [labs.html("th", { scope: "row" }, [name])].concat(cells));
    }
    var kinds = several(function () { return labs.html("span"); });
    var heads = several(function (i) {
      return labs.html("th", { scope: "col" }, [
        labs.say("key {number}", { number: i }), labs.html("br"), kinds[i]
      ]);
    });
    var scores = several(labs.cell.bind(null, {})), shares = several(labs.cell.bind(null, {}));
    var sum = labs.cell();
    var table = labs.table(labs.say("Scores and weights of the four keys"), [
      labs.html("tr", {}, [labs.html("td")].concat(heads, [
        labs.html("th", { scope: "col" }, [labs.say("sum")])
      ])),
      row(labs.say("into the softmax"), scores.concat([labs.html("td")])),
      row(labs.say("weight"), shares.concat([sum]))
    ]);
    table.show = function (inside, weights, valid) {
      heads.forEach(function (head, i) {
        head.className = i < valid ? "key" : "lab-padding";
        labs.write(kinds[i], i < valid ? labs.say("valid") : labs.say("padding"));
        scores[i].show(labs.format(inside[i], inside[i] % 1 ? 1 : 0));
        shares[i].show(labs.format(weights[i], 3), weights[i]);
      });
      sum.show(labs.format(labs.sum(weights), 3));
    };
    return table;
  }

  labs.mount("masked-softmax", labs.say("Laboratory: masked softmax"), build);
})(window.houseLabs);
