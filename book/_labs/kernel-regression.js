/* Laboratory of chapter 1: one query among measurements, the width of its kernel, its weights. */
(function (labs) {
  "use strict";

  var ENDING = { // the kernels that have an end
    boxcar: function (u) { return Math.abs(u) <= 1 ? 0.5 : 0; },
    triangular: function (u) { return Math.max(0, 1 - Math.abs(u)); },
    epanechnikov: function (u) { return Math.max(0, 0.75 * (1 - u * u)); }
  };

  function logKernel(u, kernel) {
    return kernel === "gaussian" ? -0.5 * u * u - 0.5 * Math.log(2 * Math.PI) : Math.log(ENDING[kernel](u));
  }

  /* `predict` for a curve of a thousand places: it makes no lists. A Gaussian counts from the
     nearest key on, which then weighs 1; the others are 0 at their ends, and need no logarithm.
     One key may be passed over; null without a key within reach. */
  function average(query, keys, values, bandwidth, kernel, passed) {
    var total = 0, sum = 0, nearest = Infinity, ending = ENDING[kernel];
    for (var i = 0; !ending && i < keys.length; i += 1) {
      if (i !== passed) { nearest = Math.min(nearest, Math.abs(query - keys[i]) / bandwidth); }
    }
    for (var j = 0; j < keys.length; j += 1) {
      var u = (query - keys[j]) / bandwidth;
      var weight = j === passed ? 0 : ending ? ending(u) : Math.exp(0.5 * (nearest - u) * (nearest + u));
      total += weight;
      sum += weight * values[j];
    }
    return total > 0 ? sum / total : null;
  }

  function between(low, high, share) { return low + share * (high - low); }

  var regression = labs.kernelRegression = {
    weights: function (query, keys, bandwidth, kernel) {
      return labs.softmax(keys.map(function (key) { return logKernel((query - key) / bandwidth, kernel); }));
    },

    predict: function (query, keys, values, bandwidth, kernel) {
      return labs.dot(regression.weights(query, keys, bandwidth, kernel), values);
    },

    /* Where a curve has to be looked at, so that straight lines between these places follow it.
       A kernel with an end changes at each key's reach; a narrow Gaussian, half way between keys. */
    places: function (low, high, keys, bandwidth, kernel) {
      var places = [low, high], sorted = keys.slice().sort(function (a, b) { return a - b; });
      for (var i = 1; i < 140; i += 1) { places.push(between(low, high, i / 140)); }
      sorted.forEach(function (key, i) {
        if (kernel !== "gaussian") { places.push(key - bandwidth, key + bandwidth); }
        else if (i > 0 && key > sorted[i - 1]) { // e^s of a lead s, which grows by gap / h² a unit
          var slope = (key - sorted[i - 1]) / bandwidth / bandwidth;
          [-6, -4, -2.5, -1.2, 0, 1.2, 2.5, 4, 6].forEach(function (lead) {
            places.push((key + sorted[i - 1]) / 2 + lead / slope);
          });
        }
      });
      return places.filter(function (x) { return x >= low && x <= high; })
        .sort(function (a, b) { return a - b; });
    },

    /* The fitted curve as points; null where no measurement is within reach. A boxcar gives steps:
       a level from one place to the next. */
    curve: function (low, high, keys, values, bandwidth, kernel) {
      var places = regression.places(low, high, keys, bandwidth, kernel);
      function at(x) { return average(x, keys, values, bandwidth, kernel, -1); }
      if (kernel === "gaussian") { return places.map(function (x) { return [x, at(x)]; }); }
      var points = [];
      function bend(from, to, depth) { // points between, where a straight line would be too far off
        var x = (from[0] + to[0]) / 2, middle = [x, at(x)];
        var straight = Math.abs(middle[1] - (from[1] + to[1]) / 2) < 0.02;
        var level = Math.abs(from[1] - to[1]) < 0.04; // an S is straight in its middle, too
        var enough = depth === 0 || (straight && (level || depth < 7));
        if (!enough) { bend(from, middle, depth - 1); }
        points.push(middle);
        if (!enough) { bend(middle, to, depth - 1); }
      }
      for (var i = 0; i < places.length - 1; i += 1) {
        var left = places[i], right = places[i + 1];
        if (right - left < 1e-9) { continue; }
        var middle = at((left + right) / 2);
        if (kernel === "boxcar" || middle === null) {
          points.push([left, middle], [right, middle]);
        } else { // inside, by a hair: at the very end of a reach the weight is 0
          var hair = 1e-6 * (right - left);
          var from = [left, at(left + hair)], to = [right, at(right - hair)];
          points.push(from);
          bend(from, to, 8);
          points.push(to);
        }
      }
      return points;
    },

    /* How many measurements have no other one within reach */
    alone: function (keys, bandwidth, kernel) {
      return keys.filter(function (query, i) {
        return !keys.some(function (key, j) {
          return j !== i && isFinite(logKernel((query - key) / bandwidth, kernel));
        });
      }).length;
    },

    /* Mean squared residual of each measurement from its prediction by all the others, which is 0
       where there are none within reach */
    looError: function (keys, values, bandwidth, kernel) {
      return labs.sum(keys.map(function (query, i) {
        var found = average(query, keys, values, bandwidth, kernel, i);
        return Math.pow(values[i] - (found || 0), 2);
      })) / keys.length;
    }
  };

  var NARROWEST = 0.02, WIDEST = 4; // bandwidths
  var LEFT = 34, RIGHT = 8, FLOOR = 40; // of a plot, and below it
  var PLOT = 286, STRIP = 86, ERROR = 150; // heights
  var HIGHEST = 1.4; // error that is shown
  var WIDTHS = [];
  for (var i = 0; i <= 36; i += 1) {
    WIDTHS.push(NARROWEST * Math.pow(WIDEST / NARROWEST, i / 36));
  }

  function build(data, body) {
    var low = data.grid[0] - 1, high = data.grid[data.grid.length - 1] + 1;
    var state = { query: data.query, bandwidth: data.bandwidth, kernel: "gaussian" };
    var errors = { gaussian: [], boxcar: [], triangular: [], epanechnikov: [] }; // leave-one-out

    var bottom = Math.min.apply(null, data.y.concat(0)) - 0.3;
    var top = Math.max.apply(null, data.y) + 0.3;
    var across, weights, prediction;
    var fitted = {}; // what depends on the kernel and its width alone

    var titles = {
      plot: labs.say("Measurements, the fitted curve and one query"),
      strip: labs.say("The row of weights, a cell for each measurement"),
      error: labs.say("Leave-one-out error against bandwidth")
    };

    function keepAcross(width) { across = labs.scale(low, high, LEFT, width - RIGHT); }

    var plot = labs.drawing(titles.plot, PLOT, function (width) {
      keepAcross(width);
      var floor = PLOT - FLOOR;
      var up = labs.scale(bottom, top, floor, 6);
      var parts = axes(across, up, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], width, floor);
      parts.push(labs.path(data.grid.map(function (x, i) {
        return [across(x), up(data.truth[i])];
      }), { "class": "lab-truth" }));
      data.x.forEach(function (x) { // the keys, on the axis
        parts.push(labs.path([[across(x), floor], [across(x), floor - 8]], { "class": "lab-key" }));
      });
      if (fitted.width !== width) { // the query may move, and the curve stays
        fitted.width = width;
        fitted.path = labs.path(fitted.curve.map(function (point) {
          return point[1] === null ? null : [across(point[0]), up(point[1])];
        }), { "class": "lab-curve" });
      }
      parts.push(labs.svg("path", fitted.path.attributes));
      var heaviest = Math.max.apply(null, weights) || 1;
      data.x.forEach(function (x, i) { // as large as its share of the largest, as red as its weight
        var spot = { cx: across(x), cy: up(data.y[i]), r: 3 + 4 * Math.sqrt(weights[i] / heaviest) };
        parts.push(labs.svg("circle", labs.merge({ "class": "lab-value-dot" }, spot)));
        parts.push(labs.svg("circle", labs.merge(spot, labs.red(weights[i]))));
      });
      var x = across(state.query), asked = labs.sum(weights) > 0;
      parts.push(labs.path([[x, 6], [x, floor]], { "class": "lab-query-line" }));
      parts.push(labs.query(x, asked ? up(prediction) : floor - 10));
      if (!asked) {
        var side = x > width / 2 ? -12 : 12;
        parts.push(labs.text(labs.say("no neighbours"), x + side, floor - 6, {
          "text-anchor": side < 0 ? "end" : "start"
        }));
      }
      return parts;
    });

    var strip = labs.drawing(titles.strip, STRIP, function (width) {
      var each = (width - LEFT - RIGHT) / data.x.length;
      var parts = [labs.text(labs.say("weights, from 0 (faint) to 1 (red)"), LEFT, 14, {})];
      weights.forEach(function (weight, i) {
        parts.push(labs.svg("rect", labs.merge(
          { x: LEFT + i * each, y: 22, width: each, height: 30 }, labs.red(weight)
        )));
      });
      parts.push(labs.svg("rect", {
        x: LEFT, y: 22, width: each * data.x.length, height: 30, "class": "lab-frame"
      }));
      parts.push(labs.text(labs.say("keys: measurements, in order of x"), LEFT, 70, {}));
      return parts;
    });

    var errorPlot = labs.drawing(titles.error, ERROR, function (width) {
      var along = labs.scale(Math.log(NARROWEST), Math.log(WIDEST), LEFT, width - RIGHT);
      var here = errors[state.kernel];
      var up = labs.scale(0, HIGHEST, ERROR - 36, 22);
      var parts = [];
      [0, 0.5, 1].forEach(function (tick) {
        parts.push(labs.text(String(tick), LEFT - 8, up(tick) + 4, { "text-anchor": "end" }));
      });
      [0.05, 0.2, 1].forEach(function (tick) {
        parts.push(labs.text(String(tick), along(Math.log(tick)), ERROR - 20, { "text-anchor": "middle" }));
      });
      parts.push(labs.path([[LEFT, 22], [LEFT, ERROR - 36], [width - RIGHT, ERROR - 36]], { "class": "lab-axis" }));
      parts.push(labs.text(labs.say("leave-one-out error"), LEFT + 6, 14, {}));
      parts.push(labs.text(labs.say("bandwidth h"), (LEFT + width) / 2, ERROR - 4, {
        "text-anchor": "middle"
      }));
      parts.push(labs.path(here.map(function (error, i) {
        return error <= HIGHEST ? [along(Math.log(WIDTHS[i])), up(error)] : null;
      }), { "class": "lab-curve" }));
      var x = along(Math.log(state.bandwidth)), off = fitted.error > HIGHEST;
      parts.push(off ? labs.path([[x - 6, 28], [x, 18], [x + 6, 28], [x - 6, 28]], { "class": "lab-here" })
        : labs.svg("circle", { cx: x, cy: up(fitted.error), r: 6, "class": "lab-here" }));
      if (off) { parts.push(labs.text(labs.say("above the scale"), x + 10, 30, {})); }
      return parts;
    });

    function fit() {
      if (fitted.bandwidth === state.bandwidth && fitted.kernel === state.kernel) { return; }
      fitted = {
        bandwidth: state.bandwidth,
        kernel: state.kernel,
        error: regression.looError(data.x, data.y, state.bandwidth, state.kernel),
        alone: regression.alone(data.x, state.bandwidth, state.kernel),
        curve: regression.curve(low, high, data.x, data.y, state.bandwidth, state.kernel)
      };
    }

    var query = labs.slider(labs.say("query x"), {
      min: low, max: high, step: 0.05, value: state.query, colour: "query",
      text: function (x) { return labs.format(x, 2); }
    }, function (x) { state.query = x; draw(); });

    var width = labs.slider(labs.say("bandwidth h"), {
      min: Math.log(NARROWEST), max: Math.log(WIDEST), step: 0.01, value: Math.log(state.bandwidth),
      text: function (log) { return labs.format(Math.exp(log), Math.exp(log) < 1 ? 3 : 2); }
    }, function (log) { state.bandwidth = Math.exp(log); draw(); });

    var kernels = [
      ["gaussian", labs.say("Gaussian")], ["boxcar", labs.say("boxcar")],
      ["triangular", labs.say("triangular")], ["epanechnikov", "Epanechnikov"]
    ];
    var kernel = labs.choice(labs.say("kernel"), kernels, state.kernel, function (name) {
      state.kernel = name;
      draw();
    });

    var reset = labs.button(labs.say("Start again"), function () {
      state = { query: data.query, bandwidth: data.bandwidth, kernel: "gaussian" };
      query.set(state.query);
      width.set(Math.log(state.bandwidth));
      kernel.set(state.kernel);
      draw();
    });

    var summary = labs.summary();
    plot.setAttribute("class", "lab-drawing lab-across");
    labs.draggable(plot, function (x) {
      var at = low + (x - LEFT) / (across(high) - LEFT) * (high - low);
      state.query = Math.min(high, Math.max(low, Math.round(at * 20) / 20));
      query.set(state.query);
      draw();
    });

    [plot, query, width, kernel, strip, errorPlot, summary, reset].forEach(function (part) {
      body.appendChild(labs.html("div", {}, [part]));
    });

    /* The errors of all kernels, the chosen one's first, a few at a time from the beginning: who
       comes to choose another one finds them ready. */
    function compare() {
      var name = [state.kernel].concat(Object.keys(errors)).filter(function (kernel) {
        return errors[kernel].length < WIDTHS.length;
      })[0];
      if (!name) { return; }
      var known = errors[name];
      for (var i = 0; i < 3 && known.length < WIDTHS.length; i += 1) {
        known.push(regression.looError(data.x, data.y, WIDTHS[known.length], name));
      }
      var shown = known.length === WIDTHS.length || known.length % 9 === 0;
      if (name === state.kernel && shown) { errorPlot.redraw(); }
      window.setTimeout(compare, 30);
    }

    function draw() {
      weights = regression.weights(state.query, data.x, state.bandwidth, state.kernel);
      prediction = labs.dot(weights, data.y);
      fit();
      [plot, strip, errorPlot].forEach(function (picture) { picture.redraw(); });
      summary.say(sentence());
    }

    function sentence() {
      var said = { x: labs.format(state.query, 2), error: error() };
      if (labs.sum(weights) === 0) {
        return labs.say(
          "No measurement is within reach of x = {x}: all weights are 0, and there is " +
          "nothing to predict from. {error}", said
        );
      }
      var heaviest = Math.max.apply(null, weights);
      var sorted = weights.slice().sort(function (a, b) { return b - a; });
      for (var total = 0, needed = 0; total < 0.9 && needed < sorted.length; needed += 1) {
        total += sorted[needed];
      }
      said.prediction = labs.format(prediction, 2);
      said.heaviest = labs.format(heaviest, 2);
      said.needed = needed;
      said.all = data.x.length;
      return labs.say(
        "At x = {x} the prediction is {prediction}. The largest weight is {heaviest}; nine " +
        "tenths of the attention go to {needed} of {all} measurements. {error}", said
      );
    }

    function error() {
      var said = { error: labs.format(fitted.error, 3), alone: fitted.alone };
      return fitted.alone === 0 ? labs.say("Leave-one-out error {error}.", said)
        : labs.say(
          "Leave-one-out error {error}; measurements that have no neighbour within reach, and " +
          "count as predicted 0: {alone}.", said
        );
    }

    window.setTimeout(compare, 30);
    return draw;
  }

  function axes(across, up, xs, ys, width, floor) {
    var parts = [labs.path(
      [[LEFT, 6], [LEFT, floor], [width - RIGHT, floor]], { "class": "lab-axis" }
    )];
    xs.forEach(function (x) {
      parts.push(labs.text(String(x), across(x), floor + 17, { "text-anchor": "middle" }));
    });
    ys.forEach(function (y) {
      parts.push(labs.text(String(y), LEFT - 8, up(y) + 4, { "text-anchor": "end" }));
    });
    parts.push(labs.text("x", (LEFT + width) / 2, floor + 34, { "text-anchor": "middle" }));
    parts.push(labs.text("y", LEFT + 8, 16, {}));
    return parts;
  }

  labs.mount("kernel-regression", labs.say("Laboratory: kernel regression"), build);
})(window.houseLabs);
