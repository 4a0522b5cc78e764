"""Where a setting's value comes from, and what is said of one that can't be."""

import json
from pathlib import Path
from urllib.parse import quote, unquote

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from trio_ws.settings import FIELDS, FIXED, Settings, SettingsError, data_dir, load, reloaded, schema


def test_everything_has_a_default() -> None:
    settings, sources = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("localhost", 8080)
    assert set(sources.values()) == {"default"}


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "trio-ws.toml"
    file.write_text('port = 1\nhost = "file"\nmessage_bytes = 1024')
    settings, sources = load({"port": "3"}, {"TRIO_WS_PORT": "2", "TRIO_WS_HOST": "environment"}, file)
    assert (settings.port, settings.host, settings.message_bytes) == (3, "environment", 1024)
    assert sources["port"] == "--port"
    assert sources["host"] == "TRIO_WS_HOST"
    assert sources["message_bytes"] == f"message_bytes in {file}"
    assert sources["log_level"] == "default"


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "trio-ws.toml"
    file.write_text("port = 1")
    assert load({}, {"TRIO_WS_CONFIG": str(file)}).settings.port == 1


def test_what_a_running_server_cannot_change_stays() -> None:
    new = reloaded(Settings(port=1, subscriptions=1), Settings(port=2, subscriptions=2))
    assert (new.port, new.subscriptions) == (1, 2)
    assert set(FIELDS) > FIXED


def test_what_is_no_network_is_refused() -> None:
    given = load({}, {"TRIO_WS_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}).settings.trusted_proxies
    assert given == ("10.0.0.0/8", "::1")
    with pytest.raises(
        SettingsError, match=r"TRIO_WS_TRUSTED_PROXIES: '10\.0\.0\.999' does not appear to be"
    ):
        load({}, {"TRIO_WS_TRUSTED_PROXIES": "10.0.0.999"})


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load({}, {"TRIO_WS_DATABASE_URL": ""}).settings.database_url is None


@pytest.mark.parametrize(
    "name",
    [
        "connections",
        "connections_per_address",
        "connections_per_second",
        "head_bytes",
        "authenticate_seconds",
        "message_bytes",
        "message_fragments",
        "control_frames_per_second",
        "requests_per_second",
        "requests_burst",
        "subscriptions",
    ],
)
def test_a_limit_is_lifted_by_the_word_none_and_not_by_0(name: str) -> None:
    variable = f"TRIO_WS_{name.upper()}"
    assert getattr(load({}, {}).settings, name) > 0
    assert getattr(load({}, {variable: "none"}).settings, name) is None
    for value in ("0", "-1", "nan"):
        with pytest.raises(SettingsError, match=rf"{variable}: Expected `(int|float)"):
            load({}, {variable: value})


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"TRIO_WS_PORT": "http"}, "TRIO_WS_PORT: Expected `int`, got `str`"),
        ({"TRIO_WS_PORT": "65536"}, "TRIO_WS_PORT: Expected `int` <= 65535"),
        ({"TRIO_WS_PORT": "none"}, "TRIO_WS_PORT: Expected `int`, got `null`"),
        ({"TRIO_WS_LOG_LEVEL": "loud"}, "TRIO_WS_LOG_LEVEL: Invalid enum value 'loud'"),
        ({"TRIO_WS_PING_SECONDS": "-1"}, "TRIO_WS_PING_SECONDS: Expected `float` > 0.0"),
        ({"TRIO_WS_PING_SECONDS": "nan"}, "TRIO_WS_PING_SECONDS"),
        ({"TRIO_WS_PROT": "1"}, r"unknown setting prot in the environment \(TRIO_WS_PROT\): is it port\?"),
        ({"TRIO_WS_CONFIG": "/nowhere.toml"}, "can't read /nowhere.toml: No such file"),
    ],
)
def test_a_setting_that_cannot_be_is_named(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load({}, environment)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("port = ", "is not TOML"),
        ("paint = 1", "unknown setting paint in .*toml$"),
        ("port = 1.5", "port in .*: Expected `int`, got `float`"),
        ("[server]\nport = 1", "unknown setting server"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "trio-ws.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        load({}, {}, file)


@pytest.mark.parametrize("name", ["retention_seconds", "requests_per_second", "drain_seconds"])
def test_for_ever_is_spelled_none_or_not_at_all(name: str) -> None:
    for value in ("inf", "1e300", "nan", "0", "-1"):
        with pytest.raises(SettingsError, match=name.upper()):
            load({}, {f"TRIO_WS_{name.upper()}": value})


def test_data_without_a_home_has_to_be_given_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 2)  # nobody's
    with pytest.raises(SettingsError, match="set --data-dir"):
        data_dir(Settings(), {})
    assert data_dir(Settings(data_dir="/data"), {}) == Path("/data")


def test_data_lies_where_xdg_says() -> None:
    assert data_dir(Settings(), {"XDG_DATA_HOME": "/data"}) == Path("/data/trio-ws")
    assert data_dir(Settings(), {}) == Path.home() / ".local/share/trio-ws"
    assert data_dir(Settings(data_dir="~/here"), {"XDG_DATA_HOME": "/data"}) == Path.home() / "here"


PRINTED = json.loads(json.dumps(schema()))
SCHEMA = jsonschema.Draft202012Validator(PRINTED)


def test_the_schema_is_one_and_knows_each_setting_and_its_default() -> None:
    jsonschema.Draft202012Validator.check_schema(PRINTED)
    assert list(PRINTED["properties"]) == list(FIELDS)
    defaults = {name: found["default"] for name, found in PRINTED["properties"].items()}
    SCHEMA.validate(defaults)
    assert load(defaults, {}).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value", "is_good"),
    [
        ("port", 0, True),
        ("port", 65536, False),
        ("prot", 1, False),
        ("connections", "none", True),
        ("connections", 0, False),
        ("workers", "none", False),
        ("auth", "none", True),
        ("auth", "closed", False),
        ("origins", ["https://shop.example"], True),
        ("origins", [1], False),
        ("metrics_listen", "[::1]:9100", True),
        ("metrics_listen", "9100", False),
        ("drain_seconds", 0.5, True),
        ("drain_seconds", 0, False),
        ("log_level", "loud", False),
        ("migrate", False, True),
    ],
)
def test_the_schema_takes_what_the_server_takes(
    name: str,
    value: object,
    is_good: bool,  # noqa: FBT001 - a table's column
    tmp_path: Path,
) -> None:
    assert SCHEMA.is_valid({name: value}) == is_good
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = {json.dumps(value)}\n")  # of these, TOML's spelling is JSON's
    if is_good:
        load({}, {}, file)
    else:
        with pytest.raises(SettingsError):
            load({}, {}, file)


SECRET = st.text(alphabet="abcXYZ019@:/?#%&= []'\\\"é", min_size=8, max_size=20)


@given(SECRET)
def test_what_is_wrong_with_a_conninfo_is_said_without_its_password(secret: str) -> None:
    """As where one of these characters was not written as %XX."""
    for conninfo in (
        f"postgresql://user:{secret}@127.0.0.1:1/shop",
        f"postgres://user:{secret}@/shop",
        f"host=127.0.0.1 port=1 password={secret}",
    ):
        said = complaint_about(conninfo)
        assert secret not in said
        assert len(said) < 150, "it quotes nothing"
        if not said and conninfo.startswith("postgres"):
            found = conninfo_to_dict(conninfo)
            assert found["password"] == unquote(secret), "nothing of it is taken for a host"


def complaint_about(conninfo: str) -> str:
    """What is said of it; nothing, where it is taken."""
    try:
        load({"database_url": conninfo}, {})
    except SettingsError as error:
        return str(error)
    return ""


@given(SECRET)
def test_any_password_can_be_written(secret: str) -> None:
    conninfo = f"postgresql://user:{quote(secret, safe='')}@127.0.0.1/shop?sslmode=disable"
    assert load({"database_url": conninfo}, {}).settings.database_url == conninfo


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "dbname=shop",
        "postgresql:///shop",
        "postgresql://[::1]:5432/shop",
        "postgresql://user@a,b:5433/shop?target_session_attrs=read-write&options=-c%20geqo%3Doff",
        "postgresql://%2Fvar%2Frun/shop",
        "host='/tmp/a b' user=x password='it\\'s'",
    ],
)
def test_what_libpq_takes_is_taken(conninfo: str) -> None:
    assert load({"listen_url": conninfo}, {}).settings.listen_url == conninfo
