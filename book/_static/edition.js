/* The link to the other language leads to the section that is being read. */
(function () {
  "use strict";
  function reading() {
    var sections = Array.from(document.querySelectorAll("article section[id] > :is(h1, h2, h3, h4)"));
    var above = sections.filter(function (title) { return title.getBoundingClientRect().top < window.innerHeight / 3; });
    return above.length > 1 ? above[above.length - 1].parentElement.id : ""; // the first is the page's
  }
  document.addEventListener("click", function (event) {
    var link = event.target.closest("a.house-edition"), place = link && reading();
    if (place) link.href = link.href.split("#")[0] + "#" + place;
  });
})();
