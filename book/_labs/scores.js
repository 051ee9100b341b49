/* Laboratory of chapter 5: four scores of one query in the plane, and what width does to them. */
(function (labs) {
  "use strict";

  var scores = labs.scores = {
    dot: function (query, key) { return labs.dot(query, key); },

    scaled: function (query, key) { return labs.dot(query, key) / Math.sqrt(query.length); },

    gaussian: function (query, key) {
      return -0.5 * labs.sum(query.map(function (number, i) {
        return Math.pow(number - key[i], 2);
      }));
    },

    /* `W_q` and `W_k` have a row for each hidden feature, `w_v` a number. */
    additive: function (query, key, W_q, W_k, w_v) {
      return labs.dot(w_v, w_v.map(function (_, i) {
        return tanh(labs.dot(W_q[i], query) + labs.dot(W_k[i], key));
      }));
    }
  };

  function tanh(x) {
    if (Math.abs(x) > 20) { return x < 0 ? -1 : 1; }
    var up = Math.exp(x), down = Math.exp(-x);
    return (up - down) / (up + down);
  }

  var KINDS = [
    ["dot", labs.say("dot product")], ["scaled", labs.say("scaled dot")],
    ["gaussian", labs.say("Gaussian")], ["additive", labs.say("additive")]
  ];
  var LARGEST = 190, TITLE = 22, ROW = 46; // of a plane, what stands above it and below

  function build(data, body) {
    var limit = data.extent, widths = data.widths;
    var start = data.query.slice(0, 2);
    var query = start.slice(), chosen = 0;
    var rows = {};

    var pictures = KINDS.map(function (kind) {
      var label = labs.say("{score}: query, keys and their weights", { score: kind[1] });
      var picture = labs.drawing(label, height, function (width) { return plane(kind, width); });
      picture.setAttribute("class", "lab-drawing lab-touch");
      labs.draggable(picture, function (x, y) {
        var map = frame(picture.parentNode.clientWidth);
        move(map.back(x - map.middle), -map.back(y - map.centre));
      });
      return picture;
    });

    function height(width) { return Math.min(width, LARGEST) + TITLE + ROW; }

    function frame(width) {
      var half = Math.min(width - 2, LARGEST) / 2;
      return {
        half: half, middle: width / 2, centre: TITLE + half,
        back: function (pixels) { return pixels * limit / half; }
      };
    }

    function move(x, y) {
      query = [x, y].map(function (number) {
        return Math.max(-limit, Math.min(limit, Math.round(number * 10) / 10));
      });
      sliders.forEach(function (slider, i) { slider.set(query[i]); });
      draw();
    }

    var sliders = [labs.say("query, first"), labs.say("query, second")].map(function (name, i) {
      return labs.slider(name, {
        min: -limit, max: limit, step: 0.1, value: query[i], colour: "query",
        text: function (number) { return labs.format(number, 1); }
      }, function (number) { query[i] = number; draw(); });
    });
    var dimension = labs.slider(labs.say("features d"), {
      min: 0, max: widths.length - 1, step: 1, value: 0,
      text: function (number) { return String(widths[number]); }
    }, function (number) { chosen = number; draw(); });
    var reset = labs.button(labs.say("Start again"), function () {
      chosen = 0;
      dimension.set(0);
      move(start[0], start[1]);
    });
    var summary = labs.summary();

    var grid = labs.html("div", { "class": "lab-grid" }, pictures.map(function (picture) {
      return labs.html("div", {}, [picture]);
    }));
    [grid].concat(sliders, [dimension, summary, reset]).forEach(function (part) {
      body.appendChild(part);
    });

    function plane(kind, width) {
      var map = frame(width), weights = rows[kind[0]];
      function at(point) {
        return [map.middle + point[0] / limit * map.half, map.centre - point[1] / limit * map.half];
      }
      var corner = map.middle - map.half;
      var parts = [
        labs.text(kind[1], map.middle, 14, { "text-anchor": "middle", "font-weight": 600 }),
        labs.svg("rect", {
          x: corner, y: TITLE, width: 2 * map.half, height: 2 * map.half, "class": "lab-frame"
        })
      ];
      data.keys.forEach(function (key, i) {
        var tip = at(key), square = { x: tip[0] - 6, y: tip[1] - 6, width: 12, height: 12 };
        parts.push(labs.path([at([0, 0]), tip], { "class": "lab-key" }));
        parts.push(labs.svg("rect", labs.merge(square, { "class": "lab-key-mark" })));
        parts.push(labs.svg("rect", labs.merge(square, labs.red(weights[i]))));
        parts.push(labs.text(data.names[i], tip[0], tip[1] - 10, { "text-anchor": "middle" }));
      });
      var tip = at(query);
      parts.push(labs.path([at([0, 0]), tip], { "class": "lab-query-arrow" }));
      parts.push(labs.query(tip[0], tip[1]));
      return parts.concat(row(weights, width));
    }

    /* The heat map's row: a cell for each key, with its weight */
    function row(weights, width) {
      var each = Math.min(60, (width - 2) / weights.length), left = (width - each * weights.length) / 2;
      var bottom = height(width) - 1, parts = [];
      weights.forEach(function (weight, i) {
        var box = { x: left + i * each, y: bottom - 22, width: each, height: 22 };
        parts.push(labs.text(data.names[i], box.x + each / 2, bottom - 27, { "text-anchor": "middle" }));
        parts.push(labs.svg("rect", labs.merge(box, labs.red(weight))));
        parts.push(labs.svg("rect", labs.merge(box, { "class": "lab-frame" })));
        if (each < 30) { return; } // no room for a number
        parts.push(labs.text(labs.format(weight, 2), box.x + each / 2, bottom - 6, {
          "text-anchor": "middle", "class": weight > 0.73 ? "lab-on-strong" : "lab-on-faint"
        }));
      });
      return parts;
    }

    function draw() {
      var d = widths[chosen];
      function long(vector, place) { return place.concat(vector.slice(2, d)); }
      var whole = long(data.query, query);
      var keys = data.keys.map(function (key) { return key.slice(0, d); });
      function shortened(row) {
        return row.slice(0, d).map(function (number) { return number / Math.sqrt(d); });
      }
      var W_q = data.W_q.map(shortened), W_k = data.W_k.map(shortened);
      KINDS.forEach(function (kind) {
        rows[kind[0]] = labs.softmax(keys.map(function (key) {
          return scores[kind[0]](whole, key, W_q, W_k, data.w_v);
        }));
      });
      pictures.forEach(function (picture) { picture.redraw(); });
      var said = { d: d, favourites: KINDS.map(favourite).join(labs.say(", ")) };
      summary.say(d > 2
        ? labs.say(
          "With {d} features: {favourites}. Each names the key with the largest weight. " +
          "Drawn are the first two of {d} coordinates; the others of the query stay as they " +
          "are.", said
        )
        : labs.say(
          "With {d} features: {favourites}. Each names the key with the largest weight.", said
        ));
    }

    /* The key with the largest weight; those that share it */
    function favourite(kind) {
      var weights = rows[kind[0]], most = Math.max.apply(null, weights);
      var first = data.names.filter(function (_, i) { return most - weights[i] < 1e-9; });
      return labs.say("{score} {keys} {weight}", {
        score: kind[1], weight: labs.format(most, 2),
        keys: first.length === weights.length ? labs.say("all alike") : first.join(labs.say(" and "))
      });
    }

    return draw;
  }

  labs.mount("scores", labs.say("Laboratory: four scores"), build);
})(window.houseLabs);
