"""What a chapter needs: seeds and style, glued values, real source; and a light import."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import IPython.display
import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

import d2lattn
from d2lattn import NadarayaWatson, masked_softmax
from d2lattn.masking import length_mask
from d2lattn.notebook import glue, show_lab, show_source, use_house_style
from d2lattn.plotting import HOUSE_STYLE

MIME = "application/papermill.record/"


@pytest.fixture(autouse=True)
def settings_as_they_were() -> Iterator[None]:
    printing = np.get_printoptions()
    with matplotlib.rc_context():
        yield
    torch.set_printoptions(profile="default")
    np.set_printoptions(**printing)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What a cell displays, as in a notebook."""
    displayed: list[tuple[Any, dict[str, Any]]] = []

    def display(data: Any, **options: Any) -> None:
        displayed.append((data, options))

    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", display)
    return displayed


def test_d2l_defect_13_nothing_is_seeded():
    def numbers() -> list[Any]:
        return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]

    use_house_style(seed=7)
    first = numbers()
    assert first != numbers()
    use_house_style(seed=7)
    assert numbers() == first
    use_house_style(seed=8)
    assert numbers() != first


def test_without_a_seed_a_chapter_still_gives_the_same_numbers_each_time():
    use_house_style()
    first = torch.rand(3)
    use_house_style()
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("seed", [-1, 2**32 + 5, 2**40])
def test_any_integer_is_a_seed(seed):
    use_house_style(seed=seed)


def test_the_house_style_sets_figures_and_printing():
    use_house_style(seed=0)
    for name, value in HOUSE_STYLE.items():
        assert matplotlib.rcParams[name] == value
    assert repr(torch.tensor([1e-8, 1.0])) == "tensor([0.0000, 1.0000])"
    assert str(np.array([1e-8, 1 / 3])) == "[0.     0.3333]"


def test_in_a_notebook_figures_are_svg_without_a_date(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "matplotlib_inline.backend_inline.set_matplotlib_formats",
        lambda *formats, **options: given.append((formats, options)),
    )
    use_house_style(seed=0)
    (((kind,), options),) = given
    assert kind == "svg"
    assert options["metadata"] == {"Date": None}
    assert options["bbox_inches"] is None  # or a figure's size follows its labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"), (42, "42"), ("narrow", "'narrow'"), (torch.tensor(2.5), "2.5"),
        (torch.tensor([3]), "3"), (np.float64(0.25), "0.25"), (-1e-30, "-1e-30"),
    ],
)  # fmt: skip
def test_glue_displays_the_bundle_that_myst_nb_reads(shown, value, text):
    glue("mean-error_2", value)
    ((data, options),) = shown
    assert data == {MIME + "text/plain": text}
    assert options == {
        "raw": True,
        "metadata": {"scrapbook": {"name": "mean-error_2", "mime_prefix": MIME}},
    }


def test_glue_is_what_myst_nb_s_own_glue_stores(shown, monkeypatch):
    """Their function would make a chapter need Sphinx; what it leaves behind is the same."""
    theirs = pytest.importorskip("myst_nb.ext.glue")
    monkeypatch.setattr(theirs, "ipy_display", IPython.display.display)
    glue("answer", 42)
    theirs.glue("answer", 42, display=False)
    assert shown[0] == shown[1]


def test_in_a_real_shell_a_glued_value_is_an_output_of_its_cell():
    code = "from d2lattn.notebook import glue\nglue('answer', 42)"
    script = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "from IPython.utils.capture import capture_output\n"
        "shell = InteractiveShell.instance()\n"
        "with capture_output() as captured:\n"
        f"    shell.run_cell({code!r}).raise_error()\n"
        "(output,) = captured.outputs\n"
        "print(output.data, output.metadata)\n"
    )
    printed = run(script)
    assert f"'{MIME}text/plain': '42'" in printed
    assert "'name': 'answer'" in printed


def test_outside_a_notebook_glue_is_silent(capsys):
    glue("answer", 42)
    assert capsys.readouterr().out == ""


def test_show_lab_gives_the_page_rounded_data_and_the_name_of_its_figure(shown):
    data = {"x": torch.tensor([1 / 3, 2.0]), "n": 3, "names": ["</script> & more"]}
    show_lab("scores", data, figure="fig-lab-scores")
    ((bundle, _),) = shown
    page = BeautifulSoup(bundle["text/html"], "html.parser")
    (place,) = page.select("div.lab[data-lab=scores][data-figure=fig-lab-scores]")
    (script,) = place.select("script[type='application/json']")
    assert not set("<>&") & set(str(script.string))
    assert json.loads(str(script.string)) == {
        "x": [0.333333, 2.0],
        "n": 3,
        "names": ["</script> & more"],
    }


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((3, {}, "fig-a"), TypeError, "name must be a text"),
        (("a b", {}, "fig-a"), ValueError, "name must consist of"),
        (("a", {}, None), TypeError, "figure must be a text"),
        (("a", {"x": torch.tensor([1.0, float("nan")])}, "fig-a"), ValueError, r"\['x'\]\[1\]"),
        (("a", {"x": {1, 2}}, "fig-a"), TypeError, r"data\['x'\] must be made of"),
    ],
)
def test_show_lab_refuses_what_a_page_cannot_hold(arguments, error, words):
    with pytest.raises(error, match=words):
        show_lab(*arguments)


def test_show_source_is_the_code_without_docstrings_under_its_file_s_name():
    shown = show_source(length_mask).data
    first, second, third, *code, last = shown.splitlines()
    assert (first, second, last) == ("```python", "# d2lattn/masking.py", "```")
    assert third.startswith("def length_mask(")
    assert '"""' not in shown
    assert not any(line.strip() == "" for line in code[-1:])
    compile("\n".join([third, *code]), "shown", "exec")


def test_show_source_shows_docstrings_if_asked():
    assert "Mask of the first" in show_source(length_mask, docstring=True).data


@pytest.mark.parametrize(
    "obj", [masked_softmax, NadarayaWatson, NadarayaWatson.loo_residuals, d2lattn.Attention]
)
def test_shown_source_is_code_that_compiles_and_has_every_statement_of_the_real_one(obj):
    import ast
    import inspect
    import textwrap

    shown = "\n".join(show_source(obj).data.splitlines()[2:-1])
    real = ast.parse(textwrap.dedent(inspect.getsource(obj)))
    for node in ast.walk(real):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    assert ast.dump(ast.parse(shown)) == ast.dump(real)


def run(script: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_needs_neither_matplotlib_nor_ipython_nor_statsmodels():
    heavy = {"matplotlib", "IPython", "statsmodels", "sphinx", "scipy", "pandas", "torch._dynamo"}
    script = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import d2lattn\n"
        "print(*(set(sys.modules) - before))"
    )
    imported = {name.split(".")[0] for name in run(script).split()}
    assert {"d2lattn", "jaxtyping"} <= imported
    assert not imported & heavy


def test_importing_the_package_adds_less_than_150_ms_to_importing_torch():
    script = (
        "import sys, time, torch\n"
        "for _ in range(5):\n"
        "    for name in list(sys.modules):\n"
        "        if name.split('.')[0] in ('d2lattn', 'jaxtyping'):\n"
        "            del sys.modules[name]\n"
        "    start = time.process_time()\n"  # other processes do not count
        "    import d2lattn\n"
        "    print(time.process_time() - start)"
    )
    # The least of several: what else runs on the machine can only add to it.
    assert min(float(number) for number in run(script).split()) < 0.150


@pytest.mark.parametrize(
    "show",
    [
        lambda: glue("answer", 42),
        lambda: show_lab("masked-softmax", {}, figure="fig-lab"),
        lambda: show_source(masked_softmax),
        use_house_style,
    ],
)
def test_without_ipython_a_notebook_says_what_to_install(show, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "IPython"]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(ModuleNotFoundError, match=r"IPython.*pip install 'd2lattn\[notebook\]'"):
        show()


def test_everything_in_the_public_list_is_there_and_documented():
    for name in d2lattn.__all__:
        assert getattr(d2lattn, name).__doc__, name
    assert len(set(d2lattn.__all__)) == len(d2lattn.__all__)
