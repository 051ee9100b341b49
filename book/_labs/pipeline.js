/* Laboratory of chapter 2: one query through scores, softmax and weighted sum, step by step. */
(function (labs) {
  "use strict";

  var pipeline = labs.pipeline = {
    /* Scaled dot-product attention of one query, with all that lies between */
    steps: function (query, keys, values) {
      var scores = keys.map(function (key) {
        return labs.dot(query, key) / Math.sqrt(query.length);
      });
      var weights = labs.softmax(scores);
      return {
        scores: scores,
        raised: scores.map(Math.exp),
        weights: weights,
        output: pipeline.average(weights, values)
      };
    },

    average: function (weights, values) {
      return values[0].map(function (_, column) {
        return labs.dot(weights, values.map(function (value) { return value[column]; }));
      });
    },

    /* The same as on paper, each step from the rounded numbers of the one before: whoever follows
       with a calculator finds what is shown, which is right to a few thousandths. */
    onPaper: function (query, keys, values) {
      var scores = rounded(pipeline.steps(query, keys, values).scores, 3);
      var raised = rounded(scores.map(Math.exp), 2);
      var total = rounded([labs.sum(raised)], 2)[0];
      var weights = rounded(raised.map(function (number) { return number / total; }), 3);
      return {
        scores: scores, raised: raised, total: total, weights: weights,
        output: rounded(pipeline.average(weights, values), 2)
      };
    }
  };

  function rounded(numbers, digits) {
    return numbers.map(function (number) { return Number(number.toFixed(digits)); });
  }

  var STEPS = ["query and keys", "scores", "exponentials", "weights", "output"];

  function build(data, body) {
    var start = data.query, query = start.slice(), step = 0;
    var shapes = {
      query: shape(1, start.length), keys: shape(data.keys.length, start.length),
      row: shape(1, data.keys.length), values: shape(data.keys.length, data.values[0].length),
      output: shape(1, data.values[0].length)
    };

    var back = labs.button("Back", function () { go(step - 1); });
    var next = labs.button("Next", function () { go(step + 1); });
    var stepper = labs.slider("step", {
      min: 1, max: STEPS.length, step: 1, value: 1,
      text: function (number) { return number + " of " + STEPS.length; }
    }, function (number) { go(number - 1); });
    var sliders = data.features.map(function (feature, i) {
      return labs.slider("query: " + feature, {
        min: 0, max: 4, step: 0.5, value: query[i], colour: "query",
        text: function (number) { return labs.format(number, 1); }
      }, function (number) { query[i] = number; draw(); });
    });
    var table = labs.table("From the query to the output");
    var summary = labs.summary();
    var reset = labs.button("Start again", function () {
      query = start.slice();
      sliders.forEach(function (slider, i) { slider.set(query[i]); });
      go(0);
    });
    [
      stepper, labs.buttons([back, next]), table.place, summary
    ].concat(sliders, [reset]).forEach(function (part) { body.appendChild(part); });

    function go(number) {
      step = Math.min(STEPS.length - 1, Math.max(0, number));
      stepper.set(step + 1);
      draw();
    }

    function row(name, shape, from, cells, colour) {
      var head = labs.html("th", { scope: "row" }, [
        labs.html("span", colour ? { "class": colour } : {}, [name]), labs.html("br"),
        labs.html("span", { "class": "lab-shape" }, [shape])
      ]);
      var node = labs.html("tr", from === step ? { "class": "lab-now" } : {}, [head]);
      cells.forEach(function (cell) {
        if (from > step) { cell = labs.cell("\u00b7", undefined, { colspan: cell.colSpan }); }
        node.appendChild(cell);
      });
      return node;
    }

    function draw() {
      var here = pipeline.onPaper(query, data.keys, data.values);
      allow(back, step > 0, next);
      allow(next, step < STEPS.length - 1, back);

      function numbers(row, digits) {
        return row.map(function (number) { return labs.cell(labs.format(number, digits)); });
      }
      function vectors(rows) {
        return rows.map(function (vector) { return labs.cell(vector.join(", ")); });
      }
      var all = { colspan: data.keys.length + 1 };
      labs.renew(table, [labs.html("thead", {}, [labs.html("tr", {}, [labs.html("td")].concat(
        data.names.map(function (name) { return labs.html("th", { scope: "col" }, [name]); }),
        [labs.html("th", { scope: "col" }, ["sum"])]
      ))]), labs.html("tbody", {}, [
        row("query", shapes.query, 0, [labs.cell(query.join(", "), undefined, all)], "query"),
        row("keys", shapes.keys, 0, vectors(data.keys).concat([labs.cell("")]), "key"),
        row("scores", shapes.row, 1, numbers(here.scores, 3).concat([labs.cell("")])),
        row("exp", shapes.row, 2, numbers(here.raised.concat([here.total]), 2)),
        row("weights", shapes.row, 3, here.weights.map(function (weight) {
          return labs.cell(labs.format(weight, 3), weight);
        }).concat([labs.cell(labs.format(labs.sum(here.weights), 3))])),
        row("values", shapes.values, 0, vectors(data.values).concat([labs.cell("")]), "value"),
        row("output", shapes.output, 4, [labs.cell(here.output.map(function (number, i) {
          return data.outputs[i] + " " + labs.format(number, 2);
        }).join(", "), undefined, all)])
      ])]);
      summary.say("Step " + (step + 1) + ", " + STEPS[step] + ". " + sentence(here));
    }

    /* The step worked out for the first key */
    function sentence(here) {
      var products = query.map(function (number, i) {
        return number + "\u00b7" + data.keys[0][i];
      }).join(" + ");
      var score = labs.format(here.scores[0], 3), raised = labs.format(here.raised[0], 2);
      return [
        "The query is compared with each key. The values wait.",
        data.names[0] + ": (" + products + ") / \u221a" + query.length + " = " + score +
          ". A score for each key; the feature axis is summed away.",
        data.names[0] + ": e to the power " + score + " is " + raised +
          ". All four add up to " + labs.format(here.total, 2) + ".",
        data.names[0] + ": " + raised + " / " + labs.format(here.total, 2) + " = " +
          labs.format(here.weights[0], 3) + ". The row adds up to one, but for the last digit.",
        "Each value counts by its weight: " + here.output.map(function (number, i) {
          return data.outputs[i] + " " + labs.format(number, 2);
        }).join(", ") + " minutes. The key axis is summed away."
      ][step];
    }

    return draw;
  }

  /* A button that falls silent hands its focus to the other one. */
  function allow(button, allowed, other) {
    if (!allowed && document.activeElement === button) {
      other.disabled = false;
      other.focus();
    }
    button.disabled = !allowed;
  }

  function shape(rows, columns) { return "(" + rows + ", " + columns + ")"; }

  labs.mount("pipeline", "Laboratory: attention step by step", build);
})(window.houseLabs);
