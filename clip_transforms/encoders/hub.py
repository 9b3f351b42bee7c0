"""Files of models on the Hugging Face hub, kept in that library's own cache; errors say what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from clip_transforms.elements import RequestError

_LOG = logging.getLogger(__name__)


def hub_file(repo: str, candidates: Sequence[str], *, revision: str | None = None) -> tuple[Path, str]:
    """The first of `candidates` that the repository has, and the commit it is of (40 hex digits, or "").

    Nothing is downloaded when HF_HUB_OFFLINE=1: the file must be in the cache then. Raises RequestError where
    the repository, the revision or all candidates are missing, and where the hub cannot be reached.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    where = f"hf-hub:{repo}" + (f"@{revision}" if revision else "")
    for filename in candidates:
        try:
            path = Path(hf_hub_download(repo, filename, revision=revision, library_name="beamclip"))
        except hub.LocalEntryNotFoundError as error:  # is an EntryNotFoundError too, and means: not reached
            return _from_cache(repo, candidates, revision=revision, where=where, error=error)
        except hub.GatedRepoError as error:
            raise RequestError(f"{where}: accept its licence on the hub, and set HF_TOKEN") from error
        except hub.RepositoryNotFoundError as error:
            raise RequestError(f"there is no {where} (or it is private, and HF_TOKEN is not set)") from error
        except hub.RevisionNotFoundError as error:
            raise RequestError(f"hf-hub:{repo} has no revision {revision!r}") from error
        except hub.EntryNotFoundError:
            continue
        except (hub.HfHubHTTPError, OSError) as error:
            raise RequestError(f"{where} cannot be read ({type(error).__name__}: {error})") from error
        return path, _commit(path)
    raise RequestError(f"{where} has none of {', '.join(candidates)}")


def _from_cache(
    repo: str, candidates: Sequence[str], *, revision: str | None, where: str, error: Exception
) -> tuple[Path, str]:
    """The answer while the hub is out of reach: a cached file, or a RequestError that says what to do."""
    from huggingface_hub import constants, try_to_load_from_cache

    for filename in candidates:
        found = try_to_load_from_cache(repo, filename, revision=revision)
        if isinstance(found, str):
            _LOG.warning("the hub cannot be reached: %s is taken from the cache, %s", where, found)
            return Path(found), _commit(Path(found))
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE=1 forbids the download"
    else:
        reason = "the Hugging Face hub cannot be reached"
    raise RequestError(
        f"{where} is not in this machine's cache ({constants.HF_HUB_CACHE}) and {reason}; run "
        f"`beamclip models pull` where there is a network, or give --weights and --model-config"
    ) from error


def _commit(path: Path) -> str:
    """The commit in a cached file's path, `.../snapshots/<commit>/<file>`.

    >>> _commit(Path("/c/models--a--b/snapshots/" + "0" * 40 + "/open_clip_config.json")) == "0" * 40
    True
    """
    match = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return match[1] if match else ""
