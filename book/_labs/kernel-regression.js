/* Laboratory of chapter 1: one query among measurements, the width of its kernel, its weights. */
(function (labs) {
  "use strict";

  var LOG_KERNELS = {
    gaussian: function (u) { return -0.5 * u * u - 0.5 * Math.log(2 * Math.PI); },
    boxcar: function (u) { return Math.abs(u) <= 1 ? Math.log(0.5) : -Infinity; },
    triangular: function (u) { return logInside(1 - Math.abs(u)); },
    epanechnikov: function (u) { return logInside(0.75 * (1 - u * u)); }
  };

  function logInside(density) { return density > 0 ? Math.log(density) : -Infinity; }

  var regression = labs.kernelRegression = {
    weights: function (query, keys, bandwidth, kernel) {
      return labs.softmax(keys.map(function (key) {
        return LOG_KERNELS[kernel]((query - key) / bandwidth);
      }));
    },

    predict: function (query, keys, values, bandwidth, kernel) {
      return labs.dot(regression.weights(query, keys, bandwidth, kernel), values);
    },

    /* Mean squared residual of each measurement from its prediction by all the others: what a
       query may not attend to scores minus infinity. */
    looError: function (keys, values, bandwidth, kernel) {
      var logKernel = LOG_KERNELS[kernel];
      return labs.sum(keys.map(function (query, i) {
        var weights = labs.softmax(keys.map(function (key, j) {
          return j === i ? -Infinity : logKernel((query - key) / bandwidth);
        }));
        return Math.pow(values[i] - labs.dot(weights, values), 2);
      })) / keys.length;
    }
  };

  var NARROWEST = 0.02, WIDEST = 4; // bandwidths
  var LEFT = 34, RIGHT = 8;
  var PLOT = 270, STRIP = 86, ERROR = 150; // heights
  var HIGHEST = 1.4; // error that is shown
  var WIDTHS = [];
  for (var i = 0; i <= 36; i += 1) {
    WIDTHS.push(NARROWEST * Math.pow(WIDEST / NARROWEST, i / 36));
  }

  function build(data, body) {
    var low = data.grid[0] - 1, high = data.grid[data.grid.length - 1] + 1;
    var state = { query: data.query, bandwidth: data.bandwidth, kernel: "gaussian" };
    var plotted = [];
    for (var step = 0; step <= 140; step += 1) { plotted.push(low + step * (high - low) / 140); }
    var errors = {}; // leave-one-out, by kernel

    var bottom = Math.min.apply(null, data.y.concat(0)) - 0.3;
    var top = Math.max.apply(null, data.y) + 0.3;
    var across, weights, prediction;
    var fitted = {}; // what depends on the kernel and its width alone

    function keepAcross(width) { across = labs.scale(low, high, LEFT, width - RIGHT); }

    var plot = labs.drawing("Measurements, the fitted curve and one query", PLOT, function (width) {
      keepAcross(width);
      var up = labs.scale(bottom, top, PLOT - 24, 6);
      var parts = axes(across, up, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], width, PLOT - 24);
      parts.push(labs.path(data.grid.map(function (x, i) {
        return [across(x), up(data.truth[i])];
      }), { "class": "lab-truth" }));
      data.x.forEach(function (x) { // the keys, on the axis
        parts.push(labs.path([[across(x), PLOT - 24], [across(x), PLOT - 32]], { "class": "lab-key" }));
      });
      parts.push(labs.path(plotted.map(function (x, i) {
        return fitted.curve[i] === null ? null : [across(x), up(fitted.curve[i])];
      }), { "class": "lab-curve" }));
      var heaviest = Math.max.apply(null, weights) || 1;
      data.x.forEach(function (x, i) {
        var share = weights[i] / heaviest;
        var spot = { cx: across(x), cy: up(data.y[i]), r: 3 + 4 * Math.sqrt(share) };
        parts.push(labs.svg("circle", labs.merge({ "class": "lab-value-dot" }, spot)));
        parts.push(labs.svg("circle", labs.merge(spot, labs.red(share))));
      });
      var x = across(state.query), y = up(prediction);
      parts.push(labs.path([[x, 6], [x, PLOT - 24]], { "class": "lab-query-line" }));
      parts.push(labs.query(x, y));
      return parts;
    });

    var strip = labs.drawing("The row of weights, a cell for each measurement", STRIP, function (width) {
      var each = (width - LEFT - RIGHT) / data.x.length;
      var parts = [labs.words("weights, colour by square root", LEFT, 14, {})];
      weights.forEach(function (weight, i) {
        parts.push(labs.svg("rect", labs.merge(
          { x: LEFT + i * each, y: 22, width: each, height: 30 }, labs.red(Math.sqrt(weight))
        )));
      });
      parts.push(labs.svg("rect", {
        x: LEFT, y: 22, width: each * data.x.length, height: 30, "class": "lab-frame"
      }));
      parts.push(labs.words("keys: measurements, in order of x", LEFT, 70, {}));
      return parts;
    });

    var errorPlot = labs.drawing("Leave-one-out error against bandwidth", ERROR, function (width) {
      var along = labs.scale(Math.log(NARROWEST), Math.log(WIDEST), LEFT, width - RIGHT);
      var here = errors[state.kernel];
      var up = labs.scale(0, HIGHEST, ERROR - 36, 22);
      var parts = [];
      [0, 0.5, 1].forEach(function (tick) {
        parts.push(labs.words(String(tick), LEFT - 8, up(tick) + 4, { "text-anchor": "end" }));
      });
      [0.05, 0.2, 1].forEach(function (tick) {
        parts.push(labs.words(String(tick), along(Math.log(tick)), ERROR - 20, { "text-anchor": "middle" }));
      });
      parts.push(labs.path([[LEFT, 22], [LEFT, ERROR - 36], [width - RIGHT, ERROR - 36]], { "class": "lab-axis" }));
      parts.push(labs.words("leave-one-out error", LEFT + 6, 14, {}));
      parts.push(labs.words("bandwidth h", (LEFT + width) / 2, ERROR - 4, { "text-anchor": "middle" }));
      parts.push(labs.path(WIDTHS.map(function (h, i) {
        return here[i] <= HIGHEST ? [along(Math.log(h)), up(here[i])] : null;
      }), { "class": "lab-curve" }));
      parts.push(labs.svg("circle", {
        cx: along(Math.log(state.bandwidth)), cy: up(Math.min(HIGHEST, fitted.error)), r: 6, "class": "lab-here"
      }));
      return parts;
    });

    function fit() {
      if (fitted.bandwidth === state.bandwidth && fitted.kernel === state.kernel) { return; }
      fitted = {
        bandwidth: state.bandwidth,
        kernel: state.kernel,
        error: regression.looError(data.x, data.y, state.bandwidth, state.kernel),
        curve: plotted.map(function (x) {
          var row = regression.weights(x, data.x, state.bandwidth, state.kernel);
          return labs.sum(row) > 0 ? labs.dot(row, data.y) : null;
        })
      };
    }

    var query = labs.slider("query x", {
      min: low, max: high, step: 0.05, value: state.query, colour: "query",
      text: function (x) { return labs.format(x, 2); }
    }, function (x) { state.query = x; draw(); });

    var width = labs.slider("bandwidth h", {
      min: Math.log(NARROWEST), max: Math.log(WIDEST), step: 0.01, value: Math.log(state.bandwidth),
      text: function (log) { return labs.format(Math.exp(log), Math.exp(log) < 1 ? 3 : 2); }
    }, function (log) { state.bandwidth = Math.exp(log); draw(); });

    var kernels = [
      ["gaussian", "Gaussian"], ["boxcar", "boxcar"], ["triangular", "triangular"],
      ["epanechnikov", "Epanechnikov"]
    ];
    var kernel = labs.choice("kernel", kernels, state.kernel, function (name) { state.kernel = name; draw(); });

    var reset = labs.button("Start again", function () {
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

    function compare(name) {
      errors[name] = errors[name] || WIDTHS.map(function (h) {
        return regression.looError(data.x, data.y, h, name);
      });
    }

    function draw() {
      weights = regression.weights(state.query, data.x, state.bandwidth, state.kernel);
      prediction = labs.dot(weights, data.y);
      fit();
      compare(state.kernel);
      [plot, strip, errorPlot].forEach(function (picture) { picture.redraw(); });
      summary.say(sentence());
    }

    function sentence() {
      var error = "Leave-one-out error " + labs.format(fitted.error, 3) + ".";
      if (labs.sum(weights) === 0) {
        return "No measurement is within reach of x = " + labs.format(state.query, 2) +
          ": all weights are 0, and so is the prediction. " + error;
      }
      var heaviest = Math.max.apply(null, weights);
      var sorted = weights.slice().sort(function (a, b) { return b - a; });
      for (var total = 0, needed = 0; total < 0.9 && needed < sorted.length; needed += 1) {
        total += sorted[needed];
      }
      return "At x = " + labs.format(state.query, 2) + " the prediction is " +
        labs.format(prediction, 2) + ". The largest weight is " + labs.format(heaviest, 2) +
        "; nine tenths of the attention go to " + needed + " of " + data.x.length +
        " measurements. " + error;
    }

    // The errors of the other kernels before they are chosen, one at a time, when nothing else waits
    kernels.forEach(function (each, i) {
      window.setTimeout(function () { compare(each[0]); }, 500 * (i + 1));
    });
    return draw;
  }

  function axes(across, up, xs, ys, width, floor) {
    var parts = [labs.path(
      [[LEFT, 6], [LEFT, floor], [width - RIGHT, floor]], { "class": "lab-axis" }
    )];
    xs.forEach(function (x) {
      parts.push(labs.words(String(x), across(x), floor + 17, { "text-anchor": "middle" }));
    });
    ys.forEach(function (y) {
      parts.push(labs.words(String(y), LEFT - 8, up(y) + 4, { "text-anchor": "end" }));
    });
    return parts;
  }

  labs.mount("kernel-regression", "Laboratory: kernel regression", build);
})(window.houseLabs);
