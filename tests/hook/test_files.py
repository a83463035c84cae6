"""Each way in which a file by itself can be wrong is one line of the hook, and no more."""

from types import ModuleType

import pytest

from .conftest import Add, Hook, Service

APP = "chassis/src/chassis/app.py"
MEMBER = "chassis/pyproject.toml"
README = "README.md"
ANSWERS = ".copier-answers.yml"
FEATURES = "chassis/src/chassis/features.py"


def test_an_untouched_render_has_no_problem(service: Service, hook: Hook):
    assert hook("copy") == (0, [])
    service.commit()
    assert hook("update") == (0, [])


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        (MEMBER, "# {{ package_name }}\n", "{{ package_name }}"),
        (MEMBER, "# {{package_name}}\n", "{{package_name}}"),
        (MEMBER, "# {%- if jobs %}\n", "{%- if jobs %}"),
        (MEMBER, "# {# why #}\n", "{# why #}"),
        (MEMBER, "# {{ 'name' | upper }}\n", "{{ 'name' | upper }}"),
        (README, "{{ project_name }} is here\n", "{{ project_name }}"),
        (APP, 'NAME = "{{ package_name }}"\n', "{{ package_name }}"),
        (APP, "# {% raw %}\n", "{% raw %}"),
        (APP, "# {#- why -#}\n", "{#- why -#}"),
    ],
)
def test_jinja_that_is_left_over(service: Service, hook: Hook, path: str, text: str, shown: str):
    line = service.append(path, text)
    assert hook() == (1, [f"{path}:{line}: Jinja is left over: {shown}"])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (APP, 'FORMAT = f"{{ {1} }} {{{2}}} {{}} {{a}}"\n'),
        (
            MEMBER,
            '# ${{ secrets.NAME }}, {{ .Values.name }}, {{ printf "%s" $name }}, {{ range .Alerts }}, {{ end }}\n',
        ),
        (README, "Write `{{ name }}`:\n\n```jinja\n{% if name %}{# it #}{{ name }}{% endif %}\n```\n"),
    ],
)
def test_what_is_like_jinja_and_is_none(service: Service, hook: Hook, path: str, text: str):
    service.append(path, text)
    assert hook() == (0, [])


def test_jinja_that_somebody_typed_as_an_answer_is_theirs(service: Service, hook: Hook):
    service.replace(ANSWERS, "project_name: My Service", """project_name: '"{{ 7 * "7" }}" {% x %} {# #}'""")
    service.replace(FEATURES, '"My Service"', r'''"\"{{ 7 * \"7\" }}\" {% x %} {# #}"''')
    line = service.append(README, '"{{ 7 * "7" }}" {% x %} {# #}\n{{ 7 * 8 }}\n')
    assert hook() == (1, [f"{README}:{line + 1}: Jinja is left over: {{{{ 7 * 8 }}}}"])


@pytest.mark.parametrize("name", ["{{ name }}.txt", "{% if jobs %}", "name #}"])
def test_jinja_that_is_left_over_in_a_name(service: Service, hook: Hook, name: str):
    (service.root / "vendor" / name).mkdir(parents=True)
    assert hook("copy") == (0, [])  # in a folder that the template renders nothing into
    (service.root / "chassis" / name).mkdir()
    assert hook("copy") == (1, [f"chassis/{name}:1: Jinja is left over in the name"])


def test_jinja_that_an_update_left_over_in_a_name(service: Service, hook: Hook):
    (service.root / "{{ old }}").write_text("a cookiecutter of theirs")
    service.commit()
    assert hook("update") == (0, [])
    (service.root / "{{ new }}").touch()
    assert hook("update") == (1, ["{{ new }}:1: Jinja is left over in the name"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = = 1\n", "does not compile: invalid syntax"),
        ("return 1\n", "does not compile: 'return' outside function"),
    ],
)
@pytest.mark.parametrize("path", [APP, "src/my_service/main.py"])
def test_python_that_does_not_compile(service: Service, hook: Hook, path: str, text: str, message: str):
    line = service.append(path, text)
    assert hook() == (1, [f"{path}:{line}: {message}"])


def test_an_odd_escape_in_python_compiles(service: Service, hook: Hook):
    service.append(APP, r'PATTERN = "\d"')
    assert hook() == (0, [])


def test_python_with_a_nul(service: Service, hook: Hook):
    service.append(APP, "\0")
    code, (problem,) = hook()
    assert (code, problem.startswith(f"{APP}:")) == (1, True)
    assert "does not compile: source code" in problem


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("- [1\n", 2, "is not YAML: did not find expected ',' or ']'"),
        ("---\na: 1\n---\n- [1\n", 5, "is not YAML: did not find expected ',' or ']'"),
        ("x:\n  a: 1\n  b: 2\n  a: 3\n", 4, "has the key a twice"),
        ("---\na: 1\n---\na: 1\na: 1\n", 5, "has the key a twice"),
        ("- a: 1\n- b: {c: 1, c: 2}\n", 2, "has the key c twice"),
        ("a: 2024-13-45\n", 1, "is not YAML: month must be in 1..12"),
        ("a: !mine x\n", 1, "is not YAML: could not determine a constructor for the tag '!mine'"),
    ],
)
def test_yaml_that_does_not_parse(hook: Hook, add: Add, text: str, line: int, message: str):
    add("deploy/values.yaml", text)
    assert hook() == (1, [f"deploy/values.yaml:{line}: {message}"])


def test_yaml_with_aliases_merges_and_many_documents(hook: Hook, add: Add):
    add("deploy/values.yml", "a: &a {x: 1, y: &y [*y]}\nb: {<<: *a, x: 2}\nc: {1: a, '1': b}\n---\n---\na: 1\n")
    assert hook() == (0, [])


def test_toml_that_does_not_parse(service: Service, hook: Hook):
    line = service.append(MEMBER, "a = 1\na = 2\n")
    assert hook() == (1, [f"{MEMBER}:{line + 1}: is not TOML: Cannot overwrite a value"])


def test_json_that_does_not_parse(hook: Hook, add: Add):
    add("deploy/dashboard.json", '{\n  "a": 1,\n}\n')
    code, (problem,) = hook()
    assert code == 1
    assert problem.startswith("deploy/dashboard.json:")
    assert ": is not JSON: " in problem


@pytest.mark.parametrize("path", ["a.py", "a.yaml", "a.yml", "a.toml", "a.json"])
def test_text_that_is_not_utf8(hook: Hook, add: Add, path: str):
    add(f"deploy/{path}", b"# fine\n# \xff\n")
    assert hook() == (1, [f"deploy/{path}:2: is not UTF-8"])


def test_binary_files_are_left_alone(hook: Hook, add: Add):
    add("docs/logo.png", b"\x89PNG\r\n{{ x }}\xff\0")
    assert hook() == (0, [])


def test_a_script_without_its_run_bit(service: Service, hook: Hook, add: Add):
    add("deploy/start", "#!/bin/sh\nexec true\n")
    assert hook() == (1, ["deploy/start:1: is a script without its run bit"])
    (service.root / "deploy/start").chmod(0o755)
    assert hook() == (0, [])


CONFLICT = "<<<<<<< before updating\nmine\n=======\ntheirs\n>>>>>>> after updating\n"
SOLVE = "has a conflict: keep what is needed of both sides and remove the markers"


@pytest.mark.parametrize("path", [APP, MEMBER, README, "src/my_service/main.py"])
def test_a_conflict(service: Service, hook: Hook, path: str):
    service.commit()
    line = service.append(path, CONFLICT + "between\n" + CONFLICT)
    assert hook("update") == (1, [f"{path}:{line}: {SOLVE}", f"{path}:{line + 6}: {SOLVE}"])


@pytest.mark.parametrize("marker", ["<<<<<<< before updating", "=======", ">>>>>>> after updating"])
def test_half_a_conflict(service: Service, hook: Hook, marker: str):
    service.commit()
    line = service.append(MEMBER, f"{marker}\n")
    assert hook("update") == (1, [f"{MEMBER}:{line}: {SOLVE}"])


def test_a_conflict_in_a_file_that_the_template_does_not_know(service: Service, hook: Hook):
    (service.root / "src/my_service/billing.py").write_text("")
    (service.root / "docs").mkdir(exist_ok=True)
    (service.root / "docs/merging.md").write_text(CONFLICT)  # theirs, and not of this update
    service.commit()
    (service.root / "src/my_service/billing.py").write_text(CONFLICT)
    (service.root / "new.rst").write_text("Heading\n=======\n")
    assert hook("update") == (1, [f"src/my_service/billing.py:1: {SOLVE}"])


def test_a_conflict_is_seen_without_git(service: Service, hook: Hook, monkeypatch: pytest.MonkeyPatch):
    line = service.append(APP, CONFLICT)
    expected = (1, [f"{APP}:{line}: {SOLVE}"])
    assert hook("update") == expected
    monkeypatch.setenv("PATH", "")
    assert hook("update") == expected


def test_an_answer_that_looks_like_a_conflict(service: Service, hook: Hook):
    service.replace(ANSWERS, "project_name: My Service", "project_name: '<<<<<<< My Service'")
    service.append(README, "<<<<<<< My Service\n")
    assert hook() == (0, [])


@pytest.mark.parametrize("ignored", ["", "*.rej\n"])
@pytest.mark.parametrize("path", [APP, "README.md", ".python-version"])
def test_changes_that_were_rejected(service: Service, hook: Hook, path: str, ignored: str):
    service.append(".gitignore", ignored)
    service.commit()
    (service.root / f"{path}.rej").write_text("@@ -1 +1 @@\n")
    message = f"has changes that could not be merged into {path}: make them and remove it"
    assert hook("update") == (1, [f"{path}.rej:1: {message}"])


def test_what_is_theirs_is_left_alone_in_an_update(service: Service, hook: Hook):
    files = {
        "src/my_service/pages/index.html": "{% block x %}{{ title }}{# why #}",
        "src/my_service/broken.py": "def",
        "src/my_service/main.py": "def",
        "src/my_service/settings.py": "def",
        "tests/fixtures/broken.json": "{",
        "tests/fixtures/merge.txt": CONFLICT,
        "tests/fixtures/change.rej": "@@ -1 +1 @@\n",
        "tests/fixtures/{{ name }}": "",
        "node_modules/x/package.json": "{",
        "vendor/latin.py": "# \xff".encode("latin-1").decode("latin-1"),
        "pyproject.toml": "[[",
        "deploy/variables.env": "OTHER=1\n",
        "deploy/values.yaml": "a: [",
        ".venv/lib/merge.py": CONFLICT,
        ".dev/{{ name }}": "",
        ".github/workflows/theirs.yml": "jobs: {a: {steps: [{uses: some/action@main}]}}",
        "docs/guide.md": "{{ x }}",
        "huge.bin": "\0" * 5_000_000,
    }
    for path, text in files.items():
        (service.root / path).parent.mkdir(parents=True, exist_ok=True)
        (service.root / path).write_text(text, encoding="latin-1")
    for path, target in (("chassis/pyproject.toml", "../pyproject.toml"), ("chassis/ruff.toml", "/nowhere")):
        (service.root / path).unlink()
        (service.root / path).symlink_to(target)
    (service.root / APP).unlink()
    service.commit()
    assert hook("update") == (0, [])


def test_what_lay_in_the_folder_before_a_copy_is_left_alone(service: Service, hook: Hook):
    (service.root / "src/my_service/page.html").write_text("{{ title }}")
    (service.root / "broken.json").write_text("{")
    assert hook("copy") == (0, [])


def test_a_seeded_path_is_a_whole_name(validate: ModuleType):
    theirs = validate.seeded_paths()
    assert all(map(theirs.match, ["src", "src/my_service/main.py", "README.md", "deploy/variables.env", "docs/a.md"]))
    assert not any(
        map(theirs.match, ["srcs/a", "README.md.txt", "chassis/src/chassis/app.py", "deploy/variables.env2"])
    )
