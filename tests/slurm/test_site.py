from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.site import CHECKS, SITES, Price, Site, load_site
from sweep.errors import SiteError


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the site of a text, from a file that messages call my.toml."""
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Site:
        Path("my.toml").write_text(text)
        return load_site("my.toml")

    return load


def test_an_empty_file_is_a_site_with_the_defaults(load):
    assert load("") == Site(file="my.toml")


def test_every_key_is_read(load):
    site = load("""
        partition = "short,long"
        account = "proj-12.3"
        qos = "normal"
        constraint = "[rack1*2&rack2*4]"
        time_limit = "1-00:00:00"
        cores_per_node = 48
        memory_per_node = "190G"
        gpus_per_node = 4
        cores_per_element = 8
        max_elements = 500
        max_array_size = 10001
        max_running = 50
        max_tasks = 96
        launcher = "mpiexec -n '4 5'"
        modules = ["gcc/13", "openmpi"]
        setup = ["source /opt/env.sh", "if true; then", "\\techo \\"$HOME\\"", "fi"]
        scratch = "/scratch/$USER/${SLURM_JOB_ID}"
        memory = ""
        memory_per_core = "--mem-per-cpu={megabytes}"
        gpu = "--gres=gpu:a100:{gpus}"
        gpu_per_task = "--gpus={gpus}"
        directives = ["--exclusive", "--comment=a b"]
        remove = ["--requeue"]
        [price]
        core_hour = 0.01
        gpu_hour = 2
        unit = "EUR"
    """)

    assert site == Site(
        file="my.toml",
        partition="short,long",
        account="proj-12.3",
        qos="normal",
        constraint="[rack1*2&rack2*4]",
        time_limit=24 * 60,
        cores_per_node=48,
        memory_per_node=190 * 1024,
        gpus_per_node=4,
        cores_per_element=8,
        max_elements=500,
        max_array_size=10001,
        max_running=50,
        max_tasks=96,
        launcher=("mpiexec", "-n", "4 5"),
        modules=("gcc/13", "openmpi"),
        setup=("source /opt/env.sh", "if true; then", '\techo "$HOME"', "fi"),
        scratch="/scratch/$USER/${SLURM_JOB_ID}",
        memory="",
        memory_per_core="--mem-per-cpu={megabytes}",
        gpu="--gres=gpu:a100:{gpus}",
        gpu_per_task="--gpus={gpus}",
        directives=("--exclusive", "--comment=a b"),
        remove=("--requeue",),
        price=Price(0.01, 2.0, "EUR"),
    )


def test_every_key_is_checked_and_stands_in_the_generic_file():
    keys = {field.name for field in fields(Site)} - {"file"}

    assert set(CHECKS) == keys
    lines = (SITES / "generic.toml").read_text().splitlines()
    written = {line.lstrip("# ").partition(" = ")[0].strip("[]") for line in lines}
    assert keys <= written


def test_the_generic_file_is_a_plain_site_as_it_is_and_with_every_key(load):
    file = SITES / "generic.toml"
    generic = load_site(file)
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line or line == "# [price]" else line
        for line in file.read_text().splitlines()
        if "`" not in line.partition("=")[0]
    )

    assert replace(generic, file=Site.file) == Site()
    assert load(uncommented).price == Price(0.01, 1.0, "EUR")


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ('"1-00:00:00"', 1440),
        ('"2-12"', 60 * 60),
        ('"1-01:30"', 1440 + 90),
        ('"02:30:00"', 150),
        ('"90:59"', 90),
        ('"90"', 90),
        ("90", 90),
        ('"UNLIMITED"', None),
        ('"infinite"', None),
    ],
)
def test_a_time_is_written_as_slurm_writes_it(load, written, minutes):
    assert load(f"time_limit = {written}").time_limit == minutes


@pytest.mark.parametrize(
    ("written", "megabytes"),
    [("2000", 2000), ('"2000M"', 2000), ('"2g"', 2048), ('"2GB"', 2048), ('"1T"', 2**20)],
)
def test_memory_is_written_as_slurm_writes_it(load, written, megabytes):
    assert load(f"memory_per_node = {written}").memory_per_node == megabytes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin = 'a'", "my.toml: unknown key 'partitoin'. Did you mean 'partition'? Possible"),
        ("zebra = 1", "my.toml: unknown key 'zebra'. Possible: partition, account, qos"),
        ("partition = 3", "my.toml: partition = 3 is no text. Write it in quotes"),
        ("partition = 'a b'", "partition = 'a b' is no name that SLURM takes"),
        ("partition = '-a'", "partition = '-a' is no name"),
        ('account = "a\\nb"', r"account = 'a\nb' holds a line's end"),
        ("qos = '$(id)'", "is no name that SLURM takes"),
        ("constraint = 'a;b'", 'is no constraint that SLURM takes, as "haswell"'),
        ("time_limit = 'tomorrow'", "time_limit = 'tomorrow' is no time. Write \"1-00:00:00\""),
        ("time_limit = true", "time_limit = True is no time"),
        ("time_limit = 1.5", "time_limit = 1.5 is no time"),
        ("time_limit = 0", "less than a minute"),
        ("time_limit = '0:30'", "less than a minute"),
        ("cores_per_node = 0", "cores_per_node = 0 is no whole number, at least 1"),
        ("cores_per_node = true", "is no whole number"),
        ("max_tasks = 64.0", "max_tasks = 64.0 is no whole number"),
        ("max_array_size = '1001'", "max_array_size = '1001' is no whole number"),
        ("memory_per_node = '2 GB'", 'is no memory. Write 192000 (megabytes) or "190G"'),
        ("modules = 'gcc'", "modules = 'gcc' is no list"),
        ("modules = ['']", "has an empty text"),
        ('setup = ["a\\nb"]', "holds a line's end"),
        ("setup = 'a'", "is no list"),
        ("setup = [1]", "is no text"),
        ("launcher = ''", "is empty. Write e.g."),
        ('launcher = "srun \'a"', "cannot be split into words: No closing quotation"),
        ("scratch = '$(mktemp)'", "has a $ that begins no name"),
        ("scratch = '/a/$1'", "has a $ that begins no name"),
        ("scratch = 'tmp'", "is not absolute"),
        ("memory = '--mem=4G'", "has no {megabytes} to fill in"),
        ("memory = 'mem={megabytes}'", "is not of the form --name or --name=value"),
        ("gpu = '--gres=gpu'", "has no {gpus} to fill in"),
        ("directives = ['-C haswell']", "holds '-C haswell', which is not of the form"),
        ("directives = ['--array=0-3']", "is not for a site to say"),
        ("directives = ['--mem=4G']", "Set the key that it comes from, or add '--mem' to remove"),
        ("remove = ['--requeu']", "remove = '--requeu' is no directive.*Did you mean '--requeue'?"),
        ("remove = ['--job-name']", "is no directive that can be left out"),
        ("price = 3", "price = 3 is no table"),
        ("[price]\ncore_hour = 1", "has no unit"),
        ("[price]\nunit = 'EUR'\ncore_hour = -1", "has the price -1. Give numbers, 0 or more"),
        ("[price]\nunit = 'EUR'\ncore = 1", "unknown key 'core'. Did you mean 'core_hour'?"),
        ("partition = main", "my.toml:1: this is not TOML: .*Texts stand in quotes"),
        ("a = 1\nb = = 2", "my.toml:2: this is not TOML"),
    ],
)
def test_what_is_wrong_is_told_with_the_value_and_what_to_do(load, text, message):
    with pytest.raises(SiteError) as told:
        load(text)

    parts = message.split(".*")
    assert all(part in str(told.value) for part in parts), str(told.value)


def test_a_directive_that_was_removed_may_be_given_another_way(load):
    site = load("remove = ['--mem']\ndirectives = ['--mem=0']")

    assert site.directives == ("--mem=0",)


def test_a_missing_file_is_told_with_the_one_to_copy(tmp_path):
    with pytest.raises(SiteError, match=r"There is no site file .*no\.toml\. Copy .*generic\.toml"):
        load_site(tmp_path / "no.toml")


def test_a_folder_and_a_file_that_is_no_text_are_told(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"account = '\xe9'")

    for path in (tmp_path, tmp_path / "latin.toml"):
        with pytest.raises(SiteError, match="cannot be read"):
            load_site(path)


@given(
    st.sampled_from(["partition", "account", "qos", "constraint"]),
    st.text() | st.text("ab-,;$`'\"\\#=%\n&| "),
)
def test_a_name_that_passes_is_one_word_for_sbatch_and_for_bash(key, text):
    try:
        value = getattr(Site(**{key: text}), key)
    except SiteError:
        return

    assert value == text
    assert not set(text) & set(" \t\n\r\"'\\#$`;<>%")
    assert text.isascii()
    assert not text.startswith("-")
