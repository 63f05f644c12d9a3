"""Whether deploy/kubernetes would be taken by a cluster, and fits together and to the server.

Run by tests/run. Each rule is also tried on a copy in which it is broken, and has to find that.
"""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROOKERY = os.environ.get("ROOKERY", str(REPOSITORY / "target/debug/rookery"))
# What a rule that is broken ends with.
PROBLEMS = (AssertionError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
# The oldest that is still looked after by distributors, and the newest that the schemas are there for.
VERSIONS = ["1.30", "1.37"]


def load():
    """All documents, by kind and name."""
    found = {}
    for file in sorted((REPOSITORY / "deploy/kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            found[document["kind"], document["metadata"]["name"]] = document
    return found


def pod(documents):
    """What the Deployment makes."""
    return documents["Deployment", "rookery"]["spec"]["template"]["spec"]


def container(documents):
    """The node in it."""
    [one] = pod(documents)["containers"]
    return one


def schema(documents):
    """Each document is one that the API knows, without a field too many."""
    for document in documents.values():
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def selectors(documents):
    """Whatever chooses pods chooses those of the Deployment."""
    deployment = documents["Deployment", "rookery"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    chosen = {
        "Deployment": deployment["selector"]["matchLabels"],
        "PodDisruptionBudget": documents["PodDisruptionBudget", "rookery"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": documents["NetworkPolicy", "rookery"]["spec"]["podSelector"]["matchLabels"],
    }
    for (kind, name), document in documents.items():
        if kind == "Service":
            chosen[f"Service {name}"] = document["spec"]["selector"]
    for spread in pod(documents)["topologySpreadConstraints"]:
        chosen[f"spread over {spread['topologyKey']}"] = spread["labelSelector"]["matchLabels"]
    for who, wanted in chosen.items():
        assert wanted and wanted.items() <= labels, f"{who} chooses {wanted}, pods have {dict(labels)}"


def ports(documents):
    """Whatever names a port names one that a node listens on."""
    names = {port["name"]: port["containerPort"] for port in container(documents)["ports"]}
    listening = {int(port) for port in re.findall(r'listen = \[.*:(\d+)"\]', configuration(documents))}
    assert set(names.values()) == listening, f"declared {names}, listening {listening}"
    used = {container(documents)[probe]["httpGet"]["port"] for probe in PROBES}
    for (kind, _), document in documents.items():
        if kind == "Service":
            used |= {port["targetPort"] for port in document["spec"]["ports"]}
        if kind == "NetworkPolicy":
            used |= {port["port"] for rule in document["spec"]["ingress"] for port in rule["ports"]}
    assert used == set(names), f"declared {set(names)}, used {used}"


PROBES = ["startupProbe", "readinessProbe", "livenessProbe"]


def probes(documents):
    """Only readiness asks for the database: to start a node again would not bring that back."""
    paths = [container(documents)[probe]["httpGet"]["path"] for probe in PROBES]
    assert paths == ["/readyz", "/readyz", "/healthz"], paths


def references(documents):
    """Volumes and Secrets are there, or the guide says how to make them."""
    guide = (REPOSITORY / "docs/operations.md").read_text()
    volumes = {volume["name"]: volume for volume in pod(documents)["volumes"]}
    mounted = {mount["name"] for mount in container(documents)["volumeMounts"]}
    assert mounted == set(volumes), f"mounted {mounted}, declared {set(volumes)}"
    for volume in volumes.values():
        if name := volume.get("configMap", {}).get("name"):
            assert ("ConfigMap", name) in documents, f"no ConfigMap {name}"
    secrets = {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
    for variable in container(documents)["env"]:
        secrets.add(variable["valueFrom"]["secretKeyRef"]["name"])
    for name in secrets:
        assert re.search(rf"kubectl create secret \w+ {name} ", guide), f"docs/operations.md does not make {name}"


def rookery(documents, *words):
    """Runs the server's command with the configuration of the ConfigMap; certificates are not there."""
    text = documents["ConfigMap", "rookery"]["data"]["rookery.toml"]
    environment = {"ROOKERY__CLUSTER__REDIS": "redis://redis", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [ROOKERY, "--config", "/dev/stdin", *words],
        input=text, capture_output=True, text=True, env=environment,
    )
    return done.returncode, done.stdout, done.stderr


def configuration(documents):
    """What the ConfigMap amounts to."""
    status, output, errors = rookery(documents, "config", "show")
    assert status == 0, errors
    return output


def server_accepts(documents):
    """The server takes the configuration, and files are looked for where they are mounted."""
    effective = configuration(documents)
    mounts = [mount["mountPath"] for mount in container(documents)["volumeMounts"]]
    for path in re.findall(r'^(?:certificate|key|password_file) = "(.+)"$', effective, re.M):
        assert str(Path(path).parent) in mounts, f"{path} is in none of {mounts}"


def seconds(text, key):
    """A time of the configuration."""
    number, unit = re.search(rf'^{key} = "(\d+)(s|m)"$', text, re.M).groups()
    return int(number) * (60 if unit == "m" else 1)


def time_to_end(documents):
    """A node is not killed while its clients go on elsewhere."""
    command = container(documents)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:3] == ["rookery", "drain", "--timeout"], command
    drain = int(command[3].removesuffix("s"))
    effective = configuration(documents)
    needed = drain + seconds(effective, "drain_delay") + seconds(effective, "shutdown_timeout")
    granted = pod(documents)["terminationGracePeriodSeconds"]
    assert granted > needed, f"{granted} s are granted, {needed} s are needed"
    # A node that is not ready has left the pool before its clients leave.
    probe = container(documents)["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    assert noticed < seconds(effective, "drain_delay"), f"not ready is noticed after {noticed} s"


def confined(documents):
    """No root, nothing to write to but the volume, no capabilities; the user is the image's."""
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    user = int(re.search(r"--uid (\d+)", dockerfile)[1])
    whole, one = pod(documents)["securityContext"], container(documents)["securityContext"]
    assert whole["runAsNonRoot"] and whole["runAsUser"] == whole["fsGroup"] == user, whole
    assert one["readOnlyRootFilesystem"] and one["allowPrivilegeEscalation"] is False, one
    assert one["capabilities"] == {"drop": ["ALL"]}, one
    assert pod(documents)["automountServiceAccountToken"] is False


def version(documents):
    """The image is the one that this repository makes."""
    _, output, _ = rookery(documents, "--version")
    _, tag = container(documents)["image"].rsplit(":", 1)
    assert output.strip() == f"rookery {tag}", f"{tag}: {output}"


def configured(documents, old, new):
    """Changes the ConfigMap."""
    data = documents["ConfigMap", "rookery"]["data"]
    assert old in data["rookery.toml"], old
    data["rookery.toml"] = data["rookery.toml"].replace(old, new)


# A rule, and what breaks it.
RULES = [
    (schema, lambda d: d["Deployment", "rookery"]["spec"].update(replica=3)),
    (schema, lambda d: container(d)["ports"][0].update(containerPort="5222")),
    (schema, lambda d: d["PodDisruptionBudget", "rookery"].update(apiVersion="policy/v1beta1")),
    (selectors, lambda d: d["Service", "rookery-nodes"]["spec"].update(selector={"app": "rookery"})),
    (selectors, lambda d: pod(d)["topologySpreadConstraints"][0]["labelSelector"].update(matchLabels={})),
    (ports, lambda d: d["Service", "rookery"]["spec"]["ports"][0].update(targetPort="xmpp")),
    (ports, lambda d: container(d)["ports"][3].update(containerPort=9091)),
    (probes, lambda d: container(d)["livenessProbe"]["httpGet"].update(path="/readyz")),
    (references, lambda d: pod(d)["volumes"][0]["configMap"].update(name="settings")),
    (references, lambda d: pod(d)["volumes"][2]["secret"].update(secretName="database")),
    (server_accepts, lambda d: configured(d, "drain_delay", "drain_dellay")),
    (server_accepts, lambda d: configured(d, "/tls/tls.key", "/keys/tls.key")),
    (time_to_end, lambda d: pod(d).update(terminationGracePeriodSeconds=60)),
    (time_to_end, lambda d: configured(d, 'drain_delay = "5s"', 'drain_delay = "3s"')),
    (confined, lambda d: pod(d)["securityContext"].update(runAsUser=1000)),
    (confined, lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False)),
    (version, lambda d: container(d).update(image="registry.example.org/rookery:latest")),
]


def main():
    """Tries every rule, and every rule on what breaks it."""
    documents = load()
    failed = 0
    for rule in dict.fromkeys(rule for rule, _ in RULES):
        try:
            rule(documents)
        except PROBLEMS as error:
            failed += 1
            print(f"deploy/kubernetes: {rule.__doc__} {error!r}")
    for number, (rule, breaks) in enumerate(RULES):
        broken = copy.deepcopy(documents)
        breaks(broken)
        try:
            rule(broken)
        except PROBLEMS:
            continue
        failed += 1
        print(f"tests/kubernetes: rule {number}, {rule.__name__}, does not see what is wrong")
    print(f"kubernetes: {len(documents)} objects, {len(RULES)} broken ones, {failed} problems")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
