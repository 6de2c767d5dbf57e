"""What the chart makes of its values; the real helm renders, the real API server judges."""

import subprocess
from typing import Any

import pytest
import yaml
from tests.e2e.api_server import TOP, ApiServer

Json = dict[str, Any]
CHART = str(TOP / "charts/gpu-standby")


class Helm:
    def __init__(self) -> None:
        self.api = ApiServer()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["helm", *words], capture_output=True, text=True, env=self.api.environment, timeout=60, check=False
        )

    def text(self, *settings: str) -> str:
        done = self.run("template", "gpu-standby", CHART, "--namespace", "default", *settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def documents(self, *settings: str) -> list[Json]:
        return [document for document in yaml.safe_load_all(self.text(*settings)) if document]

    def of_kind(self, kind: str, *settings: str) -> list[Json]:
        return [document for document in self.documents(*settings) if document["kind"] == kind]


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm()


def test_the_api_server_takes_all_of_it(helm: Helm) -> None:
    for settings in ([], ["--set", "watchNamespace=default,canaries={example.com:443,example.org:443}"]):
        text = helm.text("--set", "crds.install=false", *settings)
        done = subprocess.run(
            ["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"],
            input=text,
            capture_output=True,
            text=True,
            env=helm.api.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr


def test_the_operator_may_run_under_the_strictest_pod_security(helm: Helm) -> None:
    (deployment,) = helm.of_kind("Deployment")
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {t["tolerationSeconds"] for t in pod["tolerations"]} == {30}


def test_every_setting_reaches_the_operator(helm: Helm) -> None:
    (deployment,) = helm.of_kind(
        "Deployment",
        "--set",
        "image.repository=r/i,image.tag=v7,vast.url=http://vast.test,canaries={a:1,b:2},watchNamespace=default,"
        "limits.createsPerHour=3,logLevel=DEBUG",
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told == {
        "VAST_URL": "http://vast.test",
        "CANARIES": "a:1,b:2",
        "WATCH_NAMESPACE": "default",
        "OPERATOR_IMAGE": "r/i:v7",
        "INSTALLATION_CONFIGMAP": "gpu-standby-installation",
        "CREATES_PER_HOUR": "3",
        "LOG_LEVEL": "DEBUG",
        "POD_NAMESPACE": None,
        "POD_NAME": None,
    }
    assert container["image"] == "r/i:v7"


def test_an_operator_of_one_namespace_has_no_right_in_the_whole_cluster(helm: Helm) -> None:
    documents = helm.documents("--set", "watchNamespace=pairs")
    assert not [d for d in documents if d["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    assert {d["metadata"]["namespace"] for d in documents if d["kind"] == "Role"} == {"pairs", "default"}
    (own,) = [d for d in documents if d["kind"] == "Role" and d["metadata"]["namespace"] == "default"]
    assert own["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["gpu-standby-installation"],
            "verbs": ["get"],
        },
    ]


def test_no_right_is_a_wildcard_and_secrets_are_neither_listed_nor_changed(helm: Helm) -> None:
    (role,) = helm.of_kind("ClusterRole")
    for rule in role["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
    secrets = [rule["verbs"] for rule in role["rules"] if "secrets" in rule["resources"]]
    assert secrets == [["get", "create", "delete"]]


def test_the_crds_are_upgraded_with_the_chart_and_stay_when_it_goes(helm: Helm) -> None:
    crds = helm.of_kind("CustomResourceDefinition")
    assert len(crds) == 2
    for crd in crds:
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        assert crd == yaml.safe_load((TOP / f"crds/{group}_{plural}.yaml").read_text())
    assert not helm.of_kind("CustomResourceDefinition", "--set", "crds.install=false")


def test_an_upgrade_cannot_touch_the_installation_id(helm: Helm) -> None:
    assert not helm.of_kind("ConfigMap")


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("limits.createsPerHour=0", "/limits/createsPerHour"),
        ("vast.url=console.vast.ai", "/vast/url"),
        ("canaries={example.com}", "/canaries/0"),
        ("watchNamespace=Pairs", "/watchNamespace"),
        ("logLevel=loud", "/logLevel"),
        ("image.repositry=x", "repositry"),
        ("replicas=2", "replicas"),
    ],
)
def test_a_value_that_is_wrong_is_refused_by_name(helm: Helm, setting: str, field: str) -> None:
    done = helm.run("template", "gpu-standby", CHART, "--set", setting)
    assert done.returncode != 0
    assert field in done.stderr


def test_the_notes_say_what_comes_next_and_what_comes_before_the_end(helm: Helm) -> None:
    words = ("install", "gpu-standby", CHART, "--namespace", "default", "--dry-run=client")
    notes = helm.run(*words).stdout.partition("NOTES:")[2]
    assert "kubectl get gsp" in notes
    assert "Before you uninstall: kubectl delete gsp --all -A" in notes
    assert "the only canary is https://console.vast.ai" in notes
    assert "canary" not in helm.run(*words, "--set", "canaries={a:1}").stdout.partition("NOTES:")[2]
