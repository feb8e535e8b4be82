"""What a user can mend, said in one line: the field, the value and the way out."""


class Ci2pError(Exception):
    """Base of every error that the command line prints as one `Error:` line, without a traceback."""

    exit_status = 1


class InputError(Ci2pError):
    """Wrong usage or input: a missing folder, a misspelt key, another spec. Exit status 2."""

    exit_status = 2


class WorkError(Ci2pError):
    """The work itself failed or found something wrong: a damaged shard, a full disk. Exit status 1."""
