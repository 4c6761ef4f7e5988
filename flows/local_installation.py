"""A real installation on this machine, loopback only: PostgreSQL, Prefect's server and a worker, MLflow with names and passwords, the webhook bridge.

    <folder>/installation.json   ports and secrets, made once, readable by its owner only
    <folder>/services/<name>.*   what runs: process id with its start time, and its log
    <folder>/postgres            the database cluster; runs, registry and figures survive `down`

`start` is `perennial up`, `stop` is `perennial down`. Only processes that were started here are ended, by their id.
"""

import base64
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict

from contracts.errors import PipelineError
from tasks.store import CODE_ROOT

LOOPBACK = "127.0.0.1"
SECONDS_TO_START = 150.0
SECONDS_TO_END = 30.0
DATABASES = ("prefect", "mlflow", "mlflow_auth")
ADMIN = "admin"
WORK_POOL = "perennial-process"
POSTGRES_FOLDER = Path("/usr/lib/postgresql")
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Ports(BaseModel):
    """Where the services listen, on loopback."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefect: int = 4200
    mlflow: int = 5000
    bridge: int = 8090
    postgres: int = 5433


class Installation(BaseModel):
    """Ports and secrets of one installation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    ports: Ports
    database_password: str
    mlflow_password: str
    mlflow_session_key: str
    webhook_secret: str
    webhook_encryption_key: str

    @classmethod
    def at(cls, folder: Path, ports: Ports | None = None) -> Self:
        """The installation of a folder; made with new secrets where there is none. Other ports than before are kept from now on."""
        folder = folder.resolve()
        path = folder / "installation.json"
        if path.exists():
            found = cls.model_validate_json(path.read_text(encoding="utf-8"))
            found = found.model_copy(update={"ports": ports}) if ports else found
        else:
            found = cls(
                folder=folder,
                ports=ports or Ports(),
                database_password=secrets.token_urlsafe(24),
                mlflow_password=secrets.token_urlsafe(18),
                mlflow_session_key=secrets.token_urlsafe(32),
                webhook_secret=secrets.token_urlsafe(32),
                webhook_encryption_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            )
        (folder / "services").mkdir(parents=True, exist_ok=True)
        _write_private(path, found.model_dump_json(indent=1))
        return found

    @property
    def prefect_api_url(self) -> str:
        """Address of Prefect's API."""
        return f"http://{LOOPBACK}:{self.ports.prefect}/api"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow; who asks gives a name and a password."""
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def bridge_url(self) -> str:
        """Address MLflow's webhook is sent to."""
        return f"http://{LOOPBACK}:{self.ports.bridge}/mlflow"

    def database(self, name: str, driver: str) -> str:
        """SQLAlchemy address of one database."""
        return f"postgresql+{driver}://perennial:{self.database_password}@{LOOPBACK}:{self.ports.postgres}/{name}"

    def client_environment(self) -> dict[str, str]:
        """What a worker, a flow or a person's shell needs to reach the services; secrets travel here, never in parameters."""
        return {
            **QUIET,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.prefect_api_url,
            "PREFECT_LOCAL_STORAGE_PATH": str(self.folder / "results"),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_password,
            "PYTHONPATH": str(CODE_ROOT),
        }


def start(installation: Installation, tell: Callable[[str], None] = print) -> None:
    """Start what does not run yet, each after what it needs. Raises PipelineError with the end of a service's log where it does not come up."""
    _start_postgres(installation)
    tell(f"PostgreSQL  {LOOPBACK}:{installation.ports.postgres}")
    _launch(installation, "prefect", _prefect_command(installation), _prefect_environment(installation))
    _launch(installation, "mlflow", _mlflow_command(installation), _mlflow_environment(installation))  # meanwhile: each takes seconds to load
    _wait_for(installation, "prefect", f"{installation.prefect_api_url}/health")
    tell(f"Prefect     http://{LOOPBACK}:{installation.ports.prefect}")
    _wait_for(installation, "mlflow", f"{installation.mlflow_url}/health")
    tell(f"MLflow      {installation.mlflow_url}   user {ADMIN}, password in {installation.folder / 'installation.json'}")
    bridge = [sys.executable, "-m", "serving.webhook_bridge", "--host", LOOPBACK, "--port", str(installation.ports.bridge)]
    environment = {
        "PREFECT_API_URL": installation.prefect_api_url,
        "PERENNIAL_WEBHOOK_SECRET": installation.webhook_secret,
        "PERENNIAL_DELIVERIES": str(installation.folder / "deliveries.sqlite"),
        "PYTHONPATH": str(CODE_ROOT),
    }
    _launch(installation, "bridge", bridge, environment)
    _wait_for(installation, "bridge", f"http://{LOOPBACK}:{installation.ports.bridge}/healthz")
    _tell_mlflow_of_the_bridge(installation)
    tell(f"bridge      {installation.bridge_url}")
    make_work_pool(installation.client_environment(), WORK_POOL)
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--name", "perennial-local"]
    _launch(installation, "worker", worker, {**installation.client_environment(), "PREFECT_WORKER_QUERY_SECONDS": "3"})
    tell(f"worker      pool {WORK_POOL}")


def stop(folder: Path, tell: Callable[[str], None] = print) -> None:
    """End what `start` started in this folder, the last first; a process that is gone, or whose id is another's now, is left alone."""
    for name in ("worker", "bridge", "mlflow", "prefect"):
        if _end(folder, name):
            tell(f"{name} ended")
    data = folder.resolve() / "postgres"
    if (data / "postmaster.pid").exists():
        _as_database_user([_postgres_program("pg_ctl"), "--pgdata", str(data), "--mode", "fast", "--wait", "stop"])
        tell("PostgreSQL ended")


def running(folder: Path) -> dict[str, int]:
    """Services of a folder that run, with their process ids."""
    return {path.stem: pid for path in sorted((folder / "services").glob("*.json")) if (pid := _process_of(path)) is not None}


def make_work_pool(environment: Mapping[str, str], name: str) -> None:
    """Create a work pool of the kind its name ends with, from deployments/work_pools; one that is there keeps what was changed in it."""
    kind = name.rsplit("-", 1)[-1]
    template = CODE_ROOT / "deployments" / "work_pools" / f"{kind}.json"
    if not template.exists():
        raise PipelineError(f"work pool {name}: expected a name that ends in process, docker or kubernetes.")
    body = {"name": name, "type": kind, "base_job_template": json.loads(template.read_text(encoding="utf-8")), "description": "flows of Perennial"}
    answer = httpx.post(f"{environment['PREFECT_API_URL']}/work_pools/", json=body, timeout=30)
    if answer.status_code not in (201, 409):
        raise PipelineError(f"work pool {name}: Prefect answered {answer.status_code}: {answer.text[:300]}")


def free_ports() -> Ports:
    """Four ports nobody listens on now."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c, socket.socket() as d:
        for one in (a, b, c, d):
            one.bind((LOOPBACK, 0))
        return Ports(prefect=a.getsockname()[1], mlflow=b.getsockname()[1], bridge=c.getsockname()[1], postgres=d.getsockname()[1])


def _prefect_command(installation: Installation) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(installation.ports.prefect)]


def _prefect_environment(installation: Installation) -> dict[str, str]:
    return {
        **QUIET,
        "PREFECT_HOME": str(installation.folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": installation.database("prefect", "asyncpg"),
        "PREFECT_UI_API_URL": installation.prefect_api_url,
        "PREFECT_API_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
    }


def _mlflow_command(installation: Installation) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(installation.ports.mlflow), "--workers", "1"),
        *("--app-name", "basic-auth", "--backend-store-uri", installation.database("mlflow", "psycopg")),
        *("--artifacts-destination", (installation.folder / "mlflow" / "artifacts").as_uri()),
    ]


def _mlflow_environment(installation: Installation) -> dict[str, str]:
    rules = installation.folder / "services" / "mlflow_auth.ini"
    _write_private(
        rules,
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = {installation.database('mlflow_auth', 'psycopg')}\n"
        f"admin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n",
    )
    return {
        **QUIET,
        "MLFLOW_AUTH_CONFIG_PATH": str(rules),
        "MLFLOW_AUTH_ADMIN_PASSWORD": installation.mlflow_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": installation.mlflow_session_key,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": installation.webhook_encryption_key,
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",  # the bridge listens on this machine
        "MLFLOW_WEBHOOK_CACHE_TTL": "5",
    }


def _tell_mlflow_of_the_bridge(installation: Installation) -> None:
    """One webhook: every tag that is set on a version goes to the bridge, signed."""
    asked = {"auth": (ADMIN, installation.mlflow_password), "timeout": 30}
    address = f"{installation.mlflow_url}/api/2.0/mlflow/webhooks"
    listed = httpx.get(address, **asked).raise_for_status().json().get("webhooks", [])
    if any(found["url"] == installation.bridge_url for found in listed):
        return
    for found in listed:
        if found["name"] == "perennial":
            httpx.delete(f"{address}/{found['webhook_id']}", **asked).raise_for_status()
    body = {
        "name": "perennial",
        "url": installation.bridge_url,
        "events": [{"entity": "MODEL_VERSION_TAG", "action": "SET"}],
        "secret": installation.webhook_secret,
        "status": "ACTIVE",
    }
    httpx.post(address, json=body, **asked).raise_for_status()


# ---- PostgreSQL --------------------------------------------------------------------------------------------------------


def _postgres_program(name: str) -> str:
    """Path of a program of PostgreSQL; Debian keeps them off the path."""
    places = sorted(POSTGRES_FOLDER.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0)
    found = str(places[-1]) if places else shutil.which(name)
    if not found:
        raise PipelineError(f"PostgreSQL is not installed: no {name} found. On Debian: apt-get install postgresql. `make demo` needs none.")
    return found


def _as_database_user(command: list[str], **given: str) -> None:
    """Run a command of PostgreSQL, which refuses to run as root: then as the user `postgres` of the system's package."""
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.geteuid() == 0 else []
    environment = {**os.environ, **given, "HOME": "/"}
    done = subprocess.run([*as_user, *command], capture_output=True, text=True, check=False, env=environment, cwd="/", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise PipelineError(f"{Path(command[0]).name}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")


def _start_postgres(installation: Installation) -> None:
    data = installation.folder / "postgres"
    password = installation.folder / "services" / "password"
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        _write_private(password, installation.database_password)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(data, owner.pw_uid, owner.pw_gid)
            os.chown(password, owner.pw_uid, owner.pw_gid)
        try:
            _as_database_user(
                [
                    *(_postgres_program("initdb"), "--pgdata", str(data), "--username", "perennial", "--pwfile", str(password)),
                    *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"),
                ]
            )
        except PipelineError as error:
            raise PipelineError(f"{error}\nThe folder {installation.folder} must be reachable by the user that runs PostgreSQL.") from error
        finally:
            password.unlink(missing_ok=True)
    if not _answers(installation.ports.postgres):
        (data / "postmaster.pid").unlink(missing_ok=True)  # left by a machine that went down
        options = f"-p {installation.ports.postgres} -c listen_addresses={LOOPBACK} -c unix_socket_directories= -c max_connections=100"
        _as_database_user(
            [_postgres_program("pg_ctl"), "--pgdata", str(data), "--log", str(data / "postgres.log"), "--wait", "--timeout", "60", "-o", options, "start"]
        )
    _make_databases(installation)


def _make_databases(installation: Installation) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(installation.database("postgres", "x").replace("postgresql+x", "postgresql"), autocommit=True) as connection:
        there = {row[0] for row in connection.execute("select datname from pg_database")}
        for name in DATABASES:
            if name not in there:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


# ---- processes ---------------------------------------------------------------------------------------------------------


def _launch(installation: Installation, name: str, command: list[str], environment: Mapping[str, str]) -> None:
    """Start a service in a session of its own; one that runs is left alone."""
    record = installation.folder / "services" / f"{name}.json"
    if _process_of(record) is not None:
        return
    base = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "PERENNIAL_"))}
    kept = {key: value for key, value in os.environ.items() if key.startswith("PERENNIAL_") and name == "worker"}  # keys and folders of the user's data
    with record.with_suffix(".log").open("ab") as stream:
        child = subprocess.Popen(
            command,
            env={**base, **kept, **environment},
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=installation.folder,
        )
    child.returncode = 0  # it outlives this process; its end is seen by its id
    record.write_text(json.dumps({"pid": child.pid, "started": _started(child.pid)}), encoding="utf-8")


def _wait_for(installation: Installation, name: str, health: str) -> None:
    """Wait until a service answers. Raises PipelineError with the end of its log where it ends or does not come up."""
    record = installation.folder / "services" / f"{name}.json"
    deadline = time.monotonic() + SECONDS_TO_START
    while not _is_healthy(health):
        if _process_of(record) is None or time.monotonic() > deadline:
            lines = record.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise PipelineError(f"{name} did not come up at {health}. End of its log:\n" + "\n".join(lines))
        time.sleep(0.3)


def _is_healthy(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _started(pid: int) -> str | None:
    """Start time of a process, in the kernel's ticks: a process id alone may be another's by now. None where there is no such process, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _process_of(record: Path) -> int | None:
    """Id of the process a record names, if it is still that process."""
    if not record.exists():
        return None
    kept = json.loads(record.read_text(encoding="utf-8"))
    return int(kept["pid"]) if kept["started"] is not None and _started(kept["pid"]) == kept["started"] else None


def _end(folder: Path, name: str) -> bool:
    record = folder / "services" / f"{name}.json"
    pid = _process_of(record)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_END
        while _process_of(record) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
            _reap(pid)
        if _process_of(record) is not None:
            os.killpg(pid, signal.SIGKILL)
            _reap(pid)
    record.unlink(missing_ok=True)
    return pid is not None


def _reap(pid: int) -> None:
    """Take the exit code of a child of this process, where it is one."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _write_private(path: Path, text: str) -> None:
    aside = path.with_suffix(".tmp")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    aside.replace(path)
