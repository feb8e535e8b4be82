"""What a user can mend, said in one line: the field, the value and the way out."""

import errno


class Ci2pError(Exception):
    """Base of every error that the command line prints as one `Error:` line, without a traceback."""

    exit_status = 1


class InputError(Ci2pError):
    """Wrong usage or input: a missing folder, a misspelt key, another spec. Exit status 2."""

    exit_status = 2


class WorkError(Ci2pError):
    """The work itself failed or found something wrong: a damaged shard, a full disk. Exit status 1."""


def describe_system_error(error: OSError) -> str:
    """What the system refused, in one line."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the same command again: what is finished is kept"
    if "://" in str(error.filename):
        return (
            f"{error.filename}: {error.strerror}; see that it can be reached and may be used, and run the same command "
            "again: what is finished is kept"
        )
    return f"{error.strerror or error}{where}"
