/* What the laboratories share: arithmetic, controls, drawing. Classic script, ES5: it also runs
   on pages that were opened from disk. A laboratory takes the place of a figure for which a chapter
   called `show_lab`; the figure remains for print and for those without JavaScript. */
(function (window, document) {
  "use strict";

  var labs = (window.houseLabs = {});
  var SVG = "http://www.w3.org/2000/svg";
  var count = 0;

  /* Arithmetic */

  labs.sum = function (numbers) {
    return numbers.reduce(function (total, number) { return total + number; }, 0);
  };

  labs.dot = function (a, b) {
    return a.reduce(function (total, number, i) { return total + number * b[i]; }, 0);
  };

  /* Nothing but minus infinity gives zeros, as in the package. */
  labs.softmax = function (scores) {
    var highest = Math.max.apply(null, scores);
    if (highest === -Infinity) { return scores.map(function () { return 0; }); }
    var raised = scores.map(function (score) { return Math.exp(score - highest); });
    var total = labs.sum(raised);
    return raised.map(function (number) { return number / total; });
  };

  /* A number for reading: a true minus sign, infinity as a sign, "nan" as the code prints it. */
  labs.format = function (number, digits) {
    if (isNaN(number)) { return "nan"; }
    if (!isFinite(number)) { return number < 0 ? "\u2212\u221e" : "\u221e"; }
    var text = Math.abs(number).toFixed(digits);
    return (number < 0 && Number(text) !== 0 ? "\u2212" : "") + text;
  };

  /* Words: `zh.js` has those of the Chinese edition, under the English ones. */

  labs.words = {};
  var templates = {}; // split at their places: words, a name, words, a name, words

  /* A text in the language of the page, its places `{name}` filled with the value of that name.
     What is said is a sentence, or a name: another language has another order. */
  labs.say = function (text, values) {
    var parts = templates[text];
    if (!parts) { parts = templates[text] = (labs.words[text] || text).split(/\{(\w+)\}/); }
    for (var said = parts[0], i = 1; i < parts.length; i += 2) {
      said += values[parts[i]] + parts[i + 1];
    }
    return said;
  };

  /* Elements */

  function fill(element, attributes, children) {
    Object.keys(attributes || {}).forEach(function (name) {
      element.setAttribute(name, attributes[name]);
    });
    (children || []).forEach(function (child) {
      element.appendChild(typeof child === "string" ? document.createTextNode(child) : child);
    });
    return element;
  }

  labs.html = function (tag, attributes, children) {
    return fill(document.createElement(tag), attributes, children);
  };

  /* A part of a drawing, as a note of what it is: see `labs.drawing`. */
  labs.svg = function (tag, attributes, text) {
    return { tag: tag, attributes: attributes, text: text || "" };
  };

  /* Write what has changed, into the text that is there. */
  labs.write = function (element, text) {
    if (!element.firstChild) { element.appendChild(document.createTextNode(text)); }
    else if (element.firstChild.data !== text) { element.firstChild.data = text; }
  };

  labs.merge = function (attributes, more) {
    var all = {};
    [attributes, more].forEach(function (some) {
      Object.keys(some).forEach(function (name) { all[name] = some[name]; });
    });
    return all;
  };

  labs.id = function () {
    count += 1;
    return "lab-" + count;
  };

  /* A drawing as wide as its place, drawn again when that changes. `draw(width)` gives its parts;
     the height is a number, or a function of the width. Parts that are there already are moved. */
  labs.drawing = function (label, height, draw) {
    var picture = fill(document.createElementNS(SVG, "svg"), {
      role: "img", "aria-label": label, "class": "lab-drawing"
    });
    var shown = []; // the parts as they are, each with its element
    picture.redraw = function () { // asked between two drawings, the width would cost a layout each
      var width = picture.wide = picture.wide || Math.max(100, Math.round(picture.parentNode.clientWidth));
      var tall = typeof height === "function" ? height(width) : height;
      if (picture.drawn !== width + " " + tall) {
        picture.drawn = width + " " + tall;
        fill(picture, { viewBox: "0 0 " + width + " " + tall, height: tall });
      }
      var parts = draw(width);
      parts.forEach(function (part, i) { shown[i] = placed(picture, part, shown[i]); });
      shown.splice(parts.length).forEach(function (old) { picture.removeChild(old.element); });
    };
    return picture;
  };

  function placed(picture, part, old) {
    var had = old && old.tag === part.tag ? old : null;
    part.element = had ? had.element : document.createElementNS(SVG, part.tag);
    if (!had && old) { picture.replaceChild(part.element, old.element); }
    if (!old) { picture.appendChild(part.element); }
    Object.keys(part.attributes).forEach(function (name) {
      var value = part.attributes[name];
      if (!had || had.attributes[name] !== value) { part.element.setAttribute(name, value); }
    });
    Object.keys(had ? had.attributes : {}).forEach(function (name) {
      if (!(name in part.attributes)) { part.element.removeAttribute(name); }
    });
    if (part.text !== (had ? had.text : "")) { labs.write(part.element, part.text); }
    return part;
  }

  labs.scale = function (low, high, start, end) {
    return function (number) { return start + ((number - low) / (high - low)) * (end - start); };
  };

  /* A line through points; a point that is null interrupts it. */
  labs.path = function (points, attributes) {
    var pen = "M";
    var d = points.map(function (point) {
      var step = point ? pen + point[0].toFixed(2) + " " + point[1].toFixed(2) : "";
      pen = point ? "L" : "M";
      return step;
    }).join("");
    return labs.svg("path", labs.merge({ d: d, fill: "none" }, attributes));
  };

  /* A query is a triangle wherever it is drawn, a key a square, a value a disc. */
  labs.query = function (x, y) {
    return labs.path([[x, y - 9], [x + 8, y + 6], [x - 8, y + 6], [x, y - 9]], { "class": "lab-query-mark" });
  };

  labs.text = function (text, x, y, attributes) {
    return labs.svg("text", labs.merge({ x: x, y: y }, attributes), text);
  };

  /* A weight between 0 and 1 as the red of a heat map; the ink on it stays legible. */
  labs.red = function (weight) {
    return { "fill-opacity": weight.toFixed(4), "class": "lab-red" };
  };

  /* A cell of a table: `show` changes its words and its weight, if it is one. */
  labs.cell = function (attributes) {
    var cell = labs.html("td", attributes), shown = "";
    cell.show = function (text, weight) {
      var share = weight === undefined || isNaN(weight) ? "" : (100 * weight).toFixed(2) + "%";
      labs.write(cell, text);
      if (share === shown) { return; }
      shown = share;
      cell.className = share ? "lab-weight" + (weight > 0.73 ? " lab-strong" : "") : "";
      cell.style.setProperty("--lab-share", share);
    };
    return cell;
  };

  /* Controls: native elements, so that keyboard, touch and screen readers work as ever */

  labs.slider = function (label, options, change) {
    var id = labs.id();
    var value = labs.html("span", { "class": "lab-value" });
    var input = labs.html("input", {
      id: id, type: "range", min: options.min, max: options.max, step: options.step
    });
    var name = labs.html("label", { "for": id }, [label]);
    if (options.colour) { name.className = options.colour; }
    var node = labs.html("div", { "class": "lab-slider" }, [name, input, value]);
    function show() {
      var text = options.text(Number(input.value));
      labs.write(value, text);
      input.setAttribute("aria-valuetext", text);
    }
    input.addEventListener("input", function () { show(); change(Number(input.value)); });
    node.set = function (number) { input.value = number; show(); };
    node.set(options.value);
    return node;
  };

  /* One of several; `options` are pairs of a value and its name. */
  labs.choice = function (legend, options, chosen, change) {
    var group = labs.id();
    var node = labs.html("fieldset", { "class": "lab-choice" }, [
      labs.html("legend", {}, [legend])
    ]);
    var inputs = options.map(function (option) {
      var id = labs.id();
      var input = labs.html("input", { id: id, type: "radio", name: group, value: option[0] });
      input.addEventListener("change", function () { change(option[0]); });
      node.appendChild(labs.html("div", {}, [
        input, labs.html("label", { "for": id }, [option[1]])
      ]));
      return input;
    });
    node.set = function (value) {
      inputs.forEach(function (input) { input.checked = input.value === value; });
    };
    node.set(chosen);
    return node;
  };

  /* A line of text; `set` writes it */
  labs.field = function (label, longest, change) {
    var id = labs.id();
    var input = labs.html("input", {
      id: id, type: "text", maxlength: longest, autocomplete: "off", autocapitalize: "off",
      spellcheck: "false"
    });
    var node = labs.html("div", { "class": "lab-field" }, [
      labs.html("label", { "for": id }, [label]), input
    ]);
    input.addEventListener("input", function () { change(input.value); });
    node.set = function (text) { input.value = text; };
    return node;
  };

  /* Buttons side by side */
  labs.buttons = function (buttons) { return labs.html("div", { "class": "lab-buttons" }, buttons); };

  labs.button = function (label, press) {
    var node = labs.html("button", { type: "button", "class": "lab-button" }, [label]);
    node.addEventListener("click", press);
    return node;
  };

  /* A table of these rows, the first of them its head; it scrolls inside itself where the page is
     narrow. */
  labs.table = function (label, rows) {
    var table = labs.html("table", { "class": "lab-table" }, [
      labs.html("thead", {}, rows.slice(0, 1)), labs.html("tbody", {}, rows.slice(1))
    ]);
    table.place = labs.html("div", {
      "class": "lab-scroll", role: "region", "aria-label": label, tabindex: 0
    }, [table]);
    return table;
  };

  /* A sentence on what is to be seen; screen readers say it when it has changed and the hand
     rests, but not while the page loads. */
  labs.summary = function () {
    var node = labs.html("p", { "class": "lab-summary" });
    var waiting;
    node.say = function (text) {
      if (!node.textContent) {
        node.textContent = text;
        window.setTimeout(function () { node.setAttribute("role", "status"); }, 1000);
      }
      window.clearTimeout(waiting);
      waiting = window.setTimeout(function () {
        if (node.textContent !== text) { node.textContent = text; }
      }, 250);
    };
    return node;
  };

  /* Mouse, pen or finger on a drawing: `move(x, y)` in the drawing's units. */
  labs.draggable = function (picture, move) {
    var held = false, latest = null;
    function follow(event) { // once a frame, however often the pointer tells where it is
      if (!latest) {
        window.requestAnimationFrame(function () {
          var box = picture.getBoundingClientRect(), x = latest.clientX, y = latest.clientY;
          latest = null;
          move(x - box.left, y - box.top);
        });
      }
      latest = event;
    }
    picture.addEventListener("pointerdown", function (event) {
      if (event.button !== 0) { return; }
      held = true;
      picture.setPointerCapture(event.pointerId);
      follow(event);
    });
    picture.addEventListener("pointermove", function (event) { if (held) { follow(event); } });
    ["pointerup", "pointercancel"].forEach(function (name) {
      picture.addEventListener(name, function () { held = false; });
    });
  };

  /* Build a laboratory in every figure for which the page has its data. `build(data, body)` puts
     its parts into the body and gives the function that draws everything. */
  labs.mount = function (name, label, build) {
    var places = document.querySelectorAll('.lab[data-lab="' + name + '"]');
    Array.prototype.forEach.call(places, function (place) {
      var data = JSON.parse(place.querySelector("script").textContent);
      var figure = document.getElementById(place.getAttribute("data-figure"));
      var body = labs.html("div", { "class": "lab-body", role: "group", "aria-label": label });
      var draw = build(data, body);
      figure.insertBefore(body, figure.querySelector("figcaption"));
      figure.className += " has-lab"; // now the image steps back
      figure.querySelector("img").loading = "eager"; // unseen, it would not be there for paper
      draw();
      followWidth(body, draw);
    });
  };

  /* The page's side bars open and close without a `resize` of the window. */
  function followWidth(body, draw) {
    var width = body.clientWidth;
    function look() {
      if (body.clientWidth === width) { return; }
      width = body.clientWidth;
      Array.prototype.forEach.call(body.querySelectorAll(".lab-drawing"), function (picture) {
        picture.wide = 0;
      });
      draw();
    }
    if (window.ResizeObserver) { new window.ResizeObserver(look).observe(body); }
    else { window.addEventListener("resize", look); }
  }
})(window, document);
