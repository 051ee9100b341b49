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

  var STEPS = [
    labs.say("query and keys"), labs.say("scores"), labs.say("exponentials"), labs.say("weights"),
    labs.say("output")
  ];

  function build(data, body) {
    var start = data.query, query = start.slice(), step = 0;
    var back = labs.button(labs.say("Back"), function () { go(step - 1); });
    var next = labs.button(labs.say("Next"), function () { go(step + 1); });
    var stepper = labs.slider(labs.say("step"), {
      min: 1, max: STEPS.length, step: 1, value: 1,
      text: function (number) {
        return labs.say("{number} of {all}", { number: number, all: STEPS.length });
      }
    }, function (number) { go(number - 1); });
    var sliders = data.features.map(function (feature, i) {
      return labs.slider(labs.say("query: {feature}", { feature: labs.say(feature) }), {
        min: 0, max: 4, step: 0.5, value: query[i], colour: "query",
        text: function (number) { return labs.format(number, 1); }
      }, function (number) { query[i] = number; draw(); });
    });
    var columns = data.keys.length + 1; // and their sum
    var rows = {
      query: row(labs.say("query"), shape(1, start.length), 0, 1, "query"),
      keys: row(labs.say("keys"), shape(data.keys.length, start.length), 0, columns, "key"),
      scores: row(labs.say("scores"), shape(1, data.keys.length), 1, columns),
      raised: row(labs.say("exp"), shape(1, data.keys.length), 2, columns),
      weights: row(labs.say("weights"), shape(1, data.keys.length), 3, columns),
      values: row(
        labs.say("values"), shape(data.values.length, data.values[0].length), 0, columns, "value"
      ),
      output: row(labs.say("output"), shape(1, data.values[0].length), 4, 1)
    };
    var names = data.names.map(function (name) { return labs.say(name); });
    var outputs = data.outputs.map(function (name) { return labs.say(name); });
    var heads = [labs.html("td")].concat(names.concat(labs.say("sum")).map(function (name) {
      return labs.html("th", { scope: "col" }, [name]);
    }));
    var table = labs.table(
      labs.say("From the query to the output"),
      [labs.html("tr", {}, heads)].concat(
        Object.keys(rows).map(function (name) { return rows[name].node; })
      )
    );
    var summary = labs.summary();
    var reset = labs.button(labs.say("Start again"), function () {
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

    /* A row that shows its numbers from a step on: in columns, or as one text across them */
    function row(name, shape, from, columns, colour) {
      var wide = columns === 1 ? { colspan: data.keys.length + 1 } : {}, cells = [];
      for (var i = 0; i < columns; i += 1) { cells.push(labs.cell(wide)); }
      var node = labs.html("tr", {}, [labs.html("th", { scope: "row" }, [
        labs.html("span", colour ? { "class": colour } : {}, [name]), labs.html("br"),
        labs.html("span", { "class": "lab-shape" }, [shape])
      ])].concat(cells));
      return {
        node: node,
        show: function (texts, weights) {
          node.className = from === step ? "lab-now" : "";
          cells.forEach(function (cell, i) {
            if (from > step) { cell.show("\u00b7"); } else { cell.show(texts[i] || "", weights && weights[i]); }
          });
        }
      };
    }

    function draw() {
      var here = pipeline.onPaper(query, data.keys, data.values);
      allow(back, step > 0, next);
      allow(next, step < STEPS.length - 1, back);

      function numbers(row, digits) {
        return row.map(function (number) { return labs.format(number, digits); });
      }
      function vectors(rows) {
        return rows.map(function (vector) { return vector.join(", "); });
      }
      rows.query.show(vectors([query]));
      rows.keys.show(vectors(data.keys));
      rows.scores.show(numbers(here.scores, 3));
      rows.raised.show(numbers(here.raised.concat(here.total), 2));
      rows.weights.show(numbers(here.weights.concat(labs.sum(here.weights)), 3), here.weights);
      rows.values.show(vectors(data.values));
      rows.output.show([answer(here)]);
      summary.say(labs.say("Step {number}, {step}. {sentence}", {
        number: step + 1, step: STEPS[step], sentence: sentence(here)
      }));
    }

    function answer(here) {
      return here.output.map(function (number, i) {
        return labs.say("{name} {number}", { name: outputs[i], number: labs.format(number, 2) });
      }).join(labs.say(", "));
    }

    /* The step worked out for the first key */
    function sentence(here) {
      var products = query.map(function (number, i) {
        return number + "\u00b7" + data.keys[0][i];
      }).join(" + ");
      var said = {
        name: names[0], products: products, width: query.length, output: answer(here),
        score: labs.format(here.scores[0], 3), raised: labs.format(here.raised[0], 2),
        total: labs.format(here.total, 2), weight: labs.format(here.weights[0], 3)
      };
      return [
        labs.say("The query is compared with each key. The values wait."),
        labs.say(
          "{name}: ({products}) / \u221a{width} = {score}. A score for each key; the feature " +
          "axis is summed away.", said
        ),
        labs.say("{name}: e to the power {score} is {raised}. All four add up to {total}.", said),
        labs.say(
          "{name}: {raised} / {total} = {weight}. The row adds up to one, but for the last " +
          "digit.", said
        ),
        labs.say(
          "Each value counts by its weight: {output} minutes. The key axis is summed away.", said
        )
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

  labs.mount("pipeline", labs.say("Laboratory: attention step by step"), build);
})(window.houseLabs);
