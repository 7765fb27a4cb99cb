"""Renders homeserver.yaml as the chart's matrix-tools does: merges the parts, and replaces ${VARIABLES}."""

import glob
import os
import re
import sys

import yaml

kind = sys.argv[1]


def merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] += value
        else:
            into[key] = value
    return into


def read_file(found):
    """What matrix-tools does with `{{ readfile "/secrets/..." | quote }}` in a variable."""
    with open(found[1]) as file:
        return yaml.safe_dump(file.read().strip(), default_style='"', width=10**6).strip()


def expand(text):
    def variable(found):
        if found[1] not in os.environ:
            sys.exit(f"{found[1]} is not present in the environment")
        return re.sub(r'{{ readfile "([^"]*)" \| quote }}', read_file, os.environ[found[1]])

    return re.sub(r"(?<!\\)\$\{(\w+)\}", variable, text).replace("\\${", "${")


def parts():
    yield "/config/01-homeserver-underrides.yaml"
    yield from sorted(glob.glob("/config/additional-*.yaml") + glob.glob("/additional/*/*"))
    yield "/config/04-homeserver-overrides.yaml"


config = {}
for part in parts():
    with open(part) as file:
        merge(config, yaml.safe_load(expand(file.read())) or {})

resources = [{"names": ["client", "federation", "media"] if kind == "main" else ["health"]}]
listeners = [{"type": "http", "port": 8008, "bind_addresses": ["0.0.0.0"], "resources": resources}]
if kind == "main":
    if "instance_map" in config:
        replication = [{"names": ["replication"]}]
        listeners.append({"type": "http", "port": 9093, "bind_addresses": ["0.0.0.0"], "resources": replication})
    config["listeners"] = listeners
else:
    config["worker_app"] = "synapse.app.generic_worker"
    config["worker_name"] = os.environ["APPLICATION_NAME"]
    config["worker_listeners"] = listeners
    config["enable_local_media_storage"] = kind == "media-repository"
if kind == "media-repository":
    resources[0]["names"] = ["health", "media"]

with open("/conf/homeserver.yaml", "w") as file:
    yaml.safe_dump(config, file)
with open("/conf/log_config.yaml", "w") as file, open("/config/log_config.yaml") as log:
    file.write(log.read())
