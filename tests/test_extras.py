"""What is missing is named, with what to install; anything else that fails stays as it is."""

import pytest

from d2lattn.extras import needs


def test_a_missing_module_is_named_with_the_extra_that_brings_it():
    with pytest.raises(ModuleNotFoundError) as caught, needs("some"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert str(caught.value) == (
        "no_such_module must be installed for this; `pip install 'd2lattn[some]'` does so"
    )
    assert caught.value.name == "no_such_module"


def test_a_name_that_a_module_lacks_is_no_reason_to_install_it():
    with pytest.raises(ImportError, match="cannot import name") as caught, needs("some"):
        from math import no_such_name  # type: ignore[attr-defined]  # noqa: F401
    assert type(caught.value) is ImportError
