"""`python -m serving`: run the service with settings from PERENNIAL_* variables (docs/serving.md)."""

import argparse
import logging

import uvicorn


def main() -> None:
    """Read the command line, then serve."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8080, help="port to listen at")
    parser.add_argument("--workers", type=int, default=1, help="processes; more than one share sessions through PERENNIAL_REDIS_URL")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    given = parser.parse_args()
    serve(host=given.host, port=given.port, workers=given.workers, log_level=given.log_level)


def serve(*, host: str, port: int, workers: int = 1, log_level: str = "info") -> None:
    """Serve until told to stop; requests in flight are finished."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvicorn.run(
        "serving.service:app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level=log_level,
        access_log=False,
        timeout_graceful_shutdown=30,
        timeout_keep_alive=75,  # longer than a balancer keeps an idle connection, or it would send into a closed one
    )


if __name__ == "__main__":
    main()
