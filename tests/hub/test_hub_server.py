"""The tests' own Hub answers as huggingface_hub expects, with failures on demand; nothing of a pair is tested here."""

from pathlib import Path

from tests.helpers.hub_fixtures import Hub, run_in_process


CLIENT = """
import os
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

assert not constants.HF_HUB_OFFLINE
api, repo = HfApi(), os.environ["REPO"]
weights = os.urandom(70_000)
folder = pathlib.Path("upload")
folder.mkdir()
(folder / "model.safetensors").write_bytes(weights)
(folder / "config.json").write_text("{}")
url = api.create_repo(repo, private=True)
again = api.create_repo(repo, exist_ok=True)
first = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="first")
api.create_branch(repo, branch="side")
api.upload_file(repo_id=repo, path_or_fileobj=b"new", path_in_repo="notes/new.txt", revision="side")
api.delete_file("config.json", repo, revision="side")
got = pathlib.Path(snapshot_download(repo))
side = pathlib.Path(snapshot_download(repo, revision="side"))
info = api.model_info(repo, revision="side")
report(
    url=str(url), again=str(again), first=first.oid, private=info.private, user=api.whoami()["name"],
    same=(got / "model.safetensors").read_bytes() == weights,
    main=sorted(p.name for p in got.iterdir()), side=sorted(str(p.relative_to(side)) for p in side.rglob("*.*")),
    by_commit=pathlib.Path(hf_hub_download(repo, "config.json", revision=first.oid)).read_text(),
    branches=sorted(ref.name for ref in api.list_repo_refs(repo).branches),
    folder=[entry.path for entry in api.list_repo_tree(repo, revision="side")],
    anonymous=error_of(HfApi(token=False).model_info, repo),
    no_file=error_of(hf_hub_download, repo, "absent.json"),
    no_revision=error_of(hf_hub_download, repo, "config.json", revision="absent"),
    no_repo=error_of(hf_hub_download, repo + "-absent", "config.json"),
    pull=api.upload_file(repo_id=repo, path_or_fileobj=b"x", path_in_repo="x.txt", create_pr=True).pr_revision,
)
"""


def test_uploads_branches_private_repositories_and_downloads(hub: Hub, tmp_path: Path):
    repo = hub.repo("everything")
    values = run_in_process(CLIENT, hub, tmp_path, REPO=repo).values
    assert values["url"] == values["again"] == f"{hub.url}/{repo}"
    assert values["same"] and values["private"] and values["user"] == "writer"
    assert values["main"] == [".gitattributes", "config.json", "model.safetensors"]
    assert {"notes/new.txt", "model.safetensors"} <= set(values["side"])
    assert "config.json" not in values["side"]
    assert values["by_commit"] == "{}" and values["branches"] == ["main", "side"]
    assert set(values["folder"]) == {".gitattributes", "notes", "model.safetensors"}
    assert values["anonymous"].startswith("RepositoryNotFoundError: 401")
    assert values["no_file"].startswith("RemoteEntryNotFoundError: 404")
    assert values["no_revision"].startswith("RevisionNotFoundError: 404")
    assert values["no_repo"].startswith("RepositoryNotFoundError: 404")
    assert hub.lfs_files(repo) == {"model.safetensors"}
    assert hub.commits(repo)[1] == (values["first"], "first")
    assert hub.files(repo, values["pull"])["x.txt"] == b"x" and "x.txt" not in hub.files(repo)


FAILURES = """
import os
from huggingface_hub import HfApi, hf_hub_download

api, repo = HfApi(), os.environ["REPO"]
report(
    forbidden=error_of(HfApi(token=os.environ["READER"]).upload_file,
        repo_id=repo, path_or_fileobj=b"x", path_in_repo="x.txt"),
    wrong_token=error_of(HfApi(token="hf_unknown").model_info, repo),
    conflict=error_of(api.upload_file, repo_id=repo, path_or_fileobj=b"x", path_in_repo="x.txt"),
    moved=pathlib.Path(hf_hub_download(repo.replace("here", "before"), "config.json")).read_text(),
    resumed=len(pathlib.Path(hf_hub_download(repo, "slow.json")).read_bytes()),
    cut=error_of(hf_hub_download, repo, "broken.json"),
    half=[str(p) for p in pathlib.Path("hf").rglob("broken.json")],
)
no_waiting()
report(upload=error_of(api.upload_file, repo_id=repo, path_or_fileobj=os.urandom(200_000), path_in_repo="a.bin"))
"""


def test_failures_are_what_they_are_on_the_hub(hub: Hub, tmp_path: Path):
    repo = hub.repo("here")
    hub.put(hub.repo("before"), {"config.json": b'{"a": 1}', "slow.json": b"0" * 50_000, "broken.json": b"1" * 50_000})
    hub.move(hub.repo("before"), repo)
    hub.fail("POST", "/commit/", 409)
    hub.cut("GET", "slow.json", after=20_000, times=1, reset=False)
    hub.cut("GET", "broken.json", after=20_000)
    hub.cut("PUT", "/lfs/", after=20_000)
    values = run_in_process(FAILURES, hub, tmp_path, REPO=repo, READER=hub.read_token).values
    assert "403 Forbidden" in values["forbidden"]
    assert "401" in values["wrong_token"] and "409" in values["conflict"]
    assert values["moved"] == '{"a": 1}'
    assert values["resumed"] == 50_000 and len(hub.requests("GET .*slow.json")) == 2
    assert "reset" in values["cut"] and values["half"] == []
    assert values["upload"] and len(hub.requests("PUT .*/lfs/")) == 6, "the client tries again five times"
    assert len(hub.commits(repo)) == 2


def test_the_package_can_be_kept_out_of_a_process(hub: Hub, tmp_path: Path):
    code = "import importlib.util\nreport(error=error_of(__import__, 'transformers_copilot'))"
    for with_package in (True, False):
        error = run_in_process(code, hub, tmp_path, with_package=with_package).values["error"]
        assert (error is None) == with_package, error
