"""Checks the manifests and the image of `prepull sync`: permissions, security settings and names.

    python3 tests.py

Needs PyYAML. With kubectl on the PATH, it also renders the kustomization.
"""

import re
import shutil
import subprocess
import unittest
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KUSTOMIZATION = yaml.safe_load((HERE / "kustomization.yaml").read_text())


def manifests() -> dict[str, Any]:
    """Returns the objects of the kustomization, by kind."""
    texts = [(HERE / name).read_text() for name in KUSTOMIZATION["resources"]]
    objects = [document for text in texts for document in yaml.safe_load_all(text)]
    return {document["kind"]: document for document in objects}


def default_of(variable: str) -> str:
    """Returns the default of a variable of infra/modules/sync."""
    text = (ROOT / "infra/modules/sync/variables.tf").read_text()
    [body] = re.findall(rf'^variable "{variable}" {{\n(.*?)^}}$', text, re.MULTILINE | re.DOTALL)
    [default] = re.findall(r'^  default +=\s"(.*)"$', body, re.MULTILINE)
    return default


class Manifests(unittest.TestCase):
    """The objects that `kubectl apply -k` creates."""

    maxDiff = None

    def setUp(self) -> None:
        self.objects = manifests()
        self.job = self.objects["CronJob"]["spec"]
        self.pod = self.job["jobTemplate"]["spec"]["template"]["spec"]
        [self.container] = self.pod["containers"]

    def test_kustomization_lists_every_manifest(self) -> None:
        files = {file.name for file in HERE.glob("*.yaml")} - {"kustomization.yaml"}
        self.assertEqual(set(KUSTOMIZATION["resources"]), files)

    def test_role_has_only_three_verbs_on_node_classes(self) -> None:
        classes = {"apiGroups": ["karpenter.k8s.aws"], "resources": ["ec2nodeclasses"]}
        expected = [classes | {"verbs": ["list"]}, classes | {"verbs": ["get", "patch"]}]
        self.assertEqual(self.objects["ClusterRole"]["rules"], expected)

    def test_binding_gives_the_role_to_the_service_account(self) -> None:
        binding = self.objects["ClusterRoleBinding"]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
        self.assertEqual(
            binding["roleRef"], role | {"name": self.objects["ClusterRole"]["metadata"]["name"]}
        )
        account = {
            "kind": "ServiceAccount",
            "name": self.objects["ServiceAccount"]["metadata"]["name"],
        }
        self.assertEqual(binding["subjects"], [account | {"namespace": KUSTOMIZATION["namespace"]}])

    def test_pod_has_the_restricted_security_settings(self) -> None:
        labels = self.objects["Namespace"]["metadata"]["labels"]
        self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")
        self.assertEqual(
            self.pod["securityContext"],
            {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        )
        self.assertEqual(
            self.container["securityContext"],
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        )

    def test_pod_has_no_other_field(self) -> None:
        # A volume, a further container or a namespace of the host needs an entry here.
        self.assertEqual(
            set(self.pod),
            {
                "automountServiceAccountToken",
                "containers",
                "enableServiceLinks",
                "nodeSelector",
                "restartPolicy",
                "securityContext",
                "serviceAccountName",
                "terminationGracePeriodSeconds",
            },
        )
        self.assertEqual(
            set(self.container),
            {"args", "envFrom", "image", "name", "resources", "securityContext"},
        )
        self.assertIn("memory", self.container["resources"]["limits"])
        self.assertEqual(set(self.container["resources"]["requests"]), {"cpu", "memory"})

    def test_runs_never_overlap_and_end_before_the_next(self) -> None:
        self.assertEqual(self.job["schedule"], "*/15 * * * *")
        self.assertEqual(self.job["concurrencyPolicy"], "Forbid")
        job = self.job["jobTemplate"]["spec"]
        self.assertLess(
            job["activeDeadlineSeconds"] + self.pod["terminationGracePeriodSeconds"], 15 * 60 + 1
        )
        self.assertEqual(job["backoffLimit"], 0)
        self.assertEqual(self.pod["restartPolicy"], "Never")
        for setting in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ]:
            self.assertGreater(self.job[setting], 0, setting)

    def test_pod_runs_sync_with_region_and_cluster(self) -> None:
        self.assertEqual(self.container["args"], ["sync", "--apply"])
        [generator] = KUSTOMIZATION["configMapGenerator"]
        names = {literal.split("=")[0] for literal in generator["literals"]}
        self.assertEqual(names, {"AWS_REGION", "PREPULL_CLUSTER"})
        self.assertEqual(self.container["envFrom"], [{"configMapRef": {"name": generator["name"]}}])
        self.assertEqual(self.container["image"], KUSTOMIZATION["images"][0]["name"])

    def test_names_agree_with_the_terraform_module(self) -> None:
        account = self.objects["ServiceAccount"]["metadata"]["name"]
        self.assertEqual(account, default_of("service_account"))
        self.assertEqual(self.pod["serviceAccountName"], account)
        self.assertEqual(KUSTOMIZATION["namespace"], default_of("namespace"))
        self.assertEqual(self.objects["Namespace"]["metadata"]["name"], default_of("namespace"))

    def test_kubectl_renders_every_object(self) -> None:
        kubectl = shutil.which("kubectl")
        if not kubectl:
            self.skipTest("kubectl is not on the PATH")
        rendered = subprocess.run(
            [kubectl, "kustomize", HERE], check=True, capture_output=True
        ).stdout
        objects = list(yaml.safe_load_all(rendered))
        self.assertEqual({each["kind"] for each in objects}, {*self.objects, "ConfigMap"})
        image = KUSTOMIZATION["images"][0]
        self.assertIn(f"image: {image['newName']}:{image['newTag']}", rendered.decode())


class Image(unittest.TestCase):
    """The Dockerfile."""

    def setUp(self) -> None:
        self.text = (HERE / "Dockerfile").read_text()

    def test_rust_is_the_pinned_toolchain(self) -> None:
        [channel] = re.findall(
            r'^channel = "(.*)"$', (ROOT / "rust-toolchain.toml").read_text(), re.MULTILINE
        )
        self.assertEqual(re.findall(r"^FROM rust:([\d.]+)-", self.text, re.MULTILINE), [channel])
        self.assertEqual(
            re.findall(r"^ENV RUSTUP_TOOLCHAIN=(.*)$", self.text, re.MULTILINE), [channel]
        )

    def test_stages_have_the_same_debian_release(self) -> None:
        [build] = re.findall(r"^FROM rust:[\d.]+-slim-(\w+) ", self.text, re.MULTILINE)
        self.assertEqual(re.findall(r"^FROM debian:(\w+)-slim$", self.text, re.MULTILINE), [build])

    def test_build_is_locked(self) -> None:
        self.assertIn(
            "\nRUN cargo build --locked --release --package prepull --bin prepull\n", self.text
        )

    def test_user_is_that_of_the_pod(self) -> None:
        context = manifests()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
            "securityContext"
        ]
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        self.assertEqual(re.findall(r"^USER (.*)$", self.text, re.MULTILINE), [user])

    def test_tag_is_the_version_of_the_workspace(self) -> None:
        text = (ROOT / "Cargo.toml").read_text()
        [version] = re.findall(r'^\[workspace\.package\]\nversion = "(.*)"$', text, re.MULTILINE)
        self.assertEqual(KUSTOMIZATION["images"][0]["newTag"], version)


if __name__ == "__main__":
    unittest.main()
