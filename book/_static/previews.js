/* Resting on a link to a term, figure, equation, section or reference shows what it leads to.
   Another page is fetched when first asked for; from disk, where pages may not be fetched, links
   within the page are shown. Escape, or leaving both link and preview, closes it. */
(function () {
  "use strict";
  var pages = {}, box = null, owner = null, opening = 0, closing = 0;

  function page(url) {
    var address = url.href.split("#")[0];
    if (address === location.href.split("#")[0]) return Promise.resolve(document);
    if (!window.fetch || location.protocol === "file:") return Promise.reject();
    if (!pages[address]) {
      pages[address] = fetch(address).then(function (answer) {
        return answer.ok ? answer.text() : Promise.reject();
      }).then(function (text) {
        return new DOMParser().parseFromString(text, "text/html");
      });
    }
    return pages[address];
  }

  function parts(target) {
    if (target.matches("dt")) return [target, target.nextElementSibling];
    if (target.matches("section")) return [target.firstElementChild, target.querySelector("p")];
    if (target.matches("figure, div.math, div.citation")) return [target];
    if (target.matches("span") && target.parentElement.matches("section")) return parts(target.parentElement);
    if (target.firstElementChild && target.firstElementChild.matches("figure")) return [target.firstElementChild];
    return target.closest("figure") ? [target.closest("figure")] : [];
  }

  function show(link, url, found) {
    var content = document.createElement("div"), place = link.getBoundingClientRect(), width;
    parts(found).forEach(function (part) {
      if (part) content.appendChild(document.importNode(part, true));
    });
    if (!content.textContent.trim()) return;
    content.querySelectorAll(".headerlink, .viewcode-link, button, script, details").forEach(function (e) { e.remove(); });
    content.querySelectorAll("[id]").forEach(function (e) { e.removeAttribute("id"); });
    content.querySelectorAll("img").forEach(function (e) { e.src = new URL(e.getAttribute("src"), url).href; e.loading = "eager"; });
    content.querySelectorAll("a").forEach(function (e) { e.replaceWith.apply(e, e.childNodes); });
    clearTimeout(closing);
    hide();
    box = document.createElement("div");
    box.id = "house-preview";
    box.setAttribute("role", "tooltip");
    box.appendChild(content);
    document.querySelector("article").appendChild(box);
    owner = link;
    link.setAttribute("aria-describedby", box.id);
    width = Math.min(448, window.innerWidth - 24);
    box.style.width = width + "px";
    box.style.left = Math.max(12, Math.min(place.left, window.innerWidth - width - 12)) + "px";
    if (place.bottom + box.offsetHeight + 12 < window.innerHeight || place.top < box.offsetHeight)
      box.style.top = place.bottom + 4 + "px";
    else box.style.top = place.top - box.offsetHeight - 4 + "px";
    box.addEventListener("mouseenter", function () { clearTimeout(closing); });
    box.addEventListener("mouseleave", fade);
  }

  function hide() {
    if (box) box.remove();
    if (owner) owner.removeAttribute("aria-describedby");
    box = owner = null;
  }

  function fade() {
    clearTimeout(closing);
    closing = setTimeout(hide, 200);
  }

  function enter(event) {
    var link = event.target.closest("article a[href*='#']"), url, id;
    if (!link || link === owner || link.matches(".headerlink, .viewcode-back") || link.closest("#house-preview")) return;
    url = new URL(link.href);
    id = decodeURIComponent(url.hash.slice(1));
    if (url.origin !== location.origin || !id) return;
    clearTimeout(opening);
    opening = setTimeout(function () {
      page(url).then(function (source) {
        var found = source.getElementById(id);
        if (found && (link.matches(":hover") || link === document.activeElement)) show(link, url, found);
      }, function () {});
    }, 250);
  }

  function leave(event) {
    if (event.target.closest("article a") === owner) fade();
  }

  document.addEventListener("mouseover", enter);
  document.addEventListener("focusin", enter);
  document.addEventListener("mouseout", leave);
  document.addEventListener("focusout", leave);
  document.addEventListener("scroll", function () { if (owner && !owner.matches(":hover, :focus")) hide(); }, {passive: true});
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") { clearTimeout(opening); hide(); } });
})();
