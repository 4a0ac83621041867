"""`aweigh-router`: the queue in front of the pods of one InferenceService.

Nothing heavy is imported here: a pod that is deleted in its first second must go at once.
"""

import os
import signal
import sys


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    if os.getpid() == 1:
        # The kernel drops signals to a container's first process that has no handler for them. The
        # router takes over once it runs.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    import logging

    import uvloop

    from aweigh_api.mounts import UnusableSecret
    from aweigh_api.termination import ExitCode
    from aweigh_api.variables import without_effect
    from aweigh_http import logs
    from aweigh_http.door import UnsafeParser
    from aweigh_router import settings
    from aweigh_router.cluster import NotInCluster
    from aweigh_router.lifetime import PortTaken, run

    chosen = settings.read(sys.argv[1:], os.environ)
    logs.configure()
    for warning in without_effect(os.environ, settings.VARIABLES, "aweigh-router"):
        logging.getLogger("aweigh.router").warning(warning)
    try:
        uvloop.run(run(chosen, _say))
    except (UnusableSecret, UnsafeParser, PortTaken, NotInCluster) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.BAD_CONFIGURATION
    return 0


def _say(port: int, admin_port: int) -> None:
    """For whoever has asked for any free port: one line."""
    sys.stdout.write(f"listening on {port}, admin on {admin_port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
