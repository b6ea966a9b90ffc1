"""Pushes a run to the Hub: checkpoints during training, and the model at the end."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.checkpoints.merge import merge_adapter
from livecc_hf.publishing.cards import check_license, license_of
from livecc_hf.publishing.checks import Checked, check_base_id, check_folder
from livecc_hf.publishing.hub import (
    PushError,
    Target,
    check_name,
    check_token,
    explain_failures,
    prepare_repository,
    upload,
)
from livecc_hf.publishing.push import Pushed, PushOptions, send
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

    from ..options.arguments import LiveCCArguments

logger = logging.getLogger(__name__)

MERGED = "merged"  # folder of the merged model, in output_dir
_STAGED = ".push-"
_WHOLE_CHECKPOINTS = ("checkpoint", "all_checkpoints")  # values of `hub_strategy` that also push the optimizer


def check_hub_options(ours: LiveCCArguments, training: SFTConfig, model: ModelConfig) -> None:
    """Check the push options before training, so that the push does not fail or do nothing afterwards.

    Raises:
        ValueError: for the first option that conflicts with another.
    """
    given = [name for name in ("hub_base_id", "hub_license", "hub_merged") if getattr(ours, name)]
    if not training.push_to_hub:
        if given:
            raise ValueError(f"{given[0]} is given, but push_to_hub is off, so nothing is pushed: set push_to_hub=true")
        return
    if training.hub_model_id is not None:
        check_name(_with_user(training.hub_model_id))
    if ours.hub_license is not None:
        check_license(ours.hub_license, "hub_license")
    if ours.hub_base_id is not None:
        check_base_id(ours.hub_base_id, "hub_base_id")
    if ours.hub_merged and not model.use_peft:
        raise ValueError("hub_merged is on, but use_peft is off, so there is no adapter to merge: remove it")
    is_folder = Path(model.model_name_or_path or "").expanduser().is_dir()
    if model.use_peft and is_folder and not ours.hub_base_id and not ours.hub_merged:
        raise ValueError(
            f"push_to_hub would publish an adapter on the folder {model.model_name_or_path}, which nobody else has: "
            "give the base's Hub id as hub_base_id, or push the merged model with hub_merged=true"
        )


def _with_user(name: str) -> str:
    """Return a repository's name with some user, for checks before the user is known."""
    return name if "/" in name else f"me/{name}"


@dataclass
class RunPush:
    """Pushes a run's folders to the Hub.

    Args:
        ours: options of this package.
        training: TRL's options, such as `hub_model_id` and `hub_private_repo` (default here: private).
        model: TRL's model options.
    """

    ours: LiveCCArguments
    training: SFTConfig
    model: ModelConfig

    def __post_init__(self):
        self._jobs = ThreadPoolExecutor(1, "push")
        self._target: Target | None = None
        self._license = self.ours.hub_license

    @property
    def target(self) -> Target:
        """The target repository; available after :meth:`prepare`."""
        if self._target is None:
            raise RuntimeError("the repository was not prepared: call prepare() before something is pushed")
        return self._target

    def prepare(self) -> str:
        """Find or create the repository before training; return its name.

        Raises:
            PushError, ConnectionError: if the repository cannot be pushed to.
        """
        from huggingface_hub import HfApi

        for left in Path(self.training.output_dir).glob(f"{_STAGED}*"):
            shutil.rmtree(left, ignore_errors=True)  # of a killed run; its links keep deleted checkpoints on the disk
        api, options = HfApi(token=self.training.hub_token), self.training
        name = options.hub_model_id or Path(options.output_dir).absolute().name
        self._license = self._license or license_of(self.model.model_name_or_path)
        if self._license is None:
            raise PushError(
                f"push_to_hub needs a licence for the card, and {self.model.model_name_or_path} names none: give one, "
                "as hub_license=apache-2.0"
            )
        check_token(api)
        with explain_failures(api, Target(_with_user(name))):
            if "/" not in name:
                name = f"{api.whoami()['name']}/{name}"
            public = options.hub_private_repo is False
            self._target = Target(
                name, public=public, revision=options.hub_revision, public_option="hub_private_repo=false"
            )
            url = prepare_repository(api, self._target)
        logger.info("pushing to %s (%s if it is new)", url, "public" if public else "private")
        return name

    def push_checkpoint(self, checkpoint: str | Path, step: int) -> list[Future]:
        """Start pushing a checkpoint in the background; the run may delete it meanwhile.

        A failed push is only a warning: the next one sends the files again.
        """
        if self.training.hub_strategy == "end" or self.ours.hub_merged:
            return []
        message = f"Training in progress, step {step}"
        try:
            staged = self._stage(Path(checkpoint), message)
        except (OSError, ValueError) as error:
            self._warn(message, error)
            return []
        return [self._jobs.submit(*job) for job in staged]

    def _stage(self, checkpoint: Path, message: str) -> list[tuple[Any, ...]]:
        """Link a checkpoint's files into folders of their own; return the jobs that send them."""
        plan = check_folder(checkpoint, base_id=self.ours.hub_base_id, licence=self._license, load=False)
        staged = Path(tempfile.mkdtemp(prefix=_STAGED, dir=self.training.output_dir))
        contents = plan.copy_to(staged, link=os.link)
        jobs: list[tuple[Any, ...]] = [(self._send_staged, replace(plan, contents=contents, rewritten={}), message)]
        if self.training.hub_strategy in _WHOLE_CHECKPOINTS:
            whole = Path(tempfile.mkdtemp(prefix=_STAGED, dir=self.training.output_dir))
            shutil.copytree(checkpoint, whole, copy_function=_link, dirs_exist_ok=True)
            only = self.training.hub_strategy == "checkpoint"
            jobs.append((self._send_whole, whole, "last-checkpoint" if only else checkpoint.name, message))
        return jobs

    @staticmethod
    def _warn(message: str, error: Exception, where: str = "") -> None:
        logger.warning("%s was not pushed%s: %s", message.lower(), where, one_line(error))

    def push_result(self, folder: str | Path, message: str) -> Pushed:
        """Push a finished run's folder (with `hub_merged`, the merged model), and verify the upload.

        Raises:
            PushError, ConnectionError, DiskFullError: with the command that pushes the folder later.
        """
        if self.ours.hub_merged:
            folder = self._merge(Path(folder))
        options = PushOptions(base_id=self.ours.hub_base_id, license=self._license, message=message)
        try:
            plan = check_folder(folder, base_id=options.base_id, licence=options.license)
            pushed = send(plan, self.target, options, token=self.training.hub_token, report=logger.info)
        except (OSError, ValueError) as error:
            raise (PushError if isinstance(error, ValueError) else type(error))(
                f"{one_line(error)}; the model is in {folder}: `livecc push {folder} {self.target.repo_id}` sends it"
            ) from error
        logger.info("pushed to %s, commit %s", pushed.url, pushed.commit)
        return pushed

    def _merge(self, folder: Path) -> Path:
        out = folder / MERGED
        if (out / "config.json").is_file():
            shutil.rmtree(out)  # left by an earlier push of this run
        return merge_adapter(folder, out)

    def _send_staged(self, plan: Checked, message: str) -> None:
        options = PushOptions(message=message, verify="none")
        try:
            send(plan, self.target, options, token=self.training.hub_token)
        except (OSError, ValueError) as error:
            self._warn(message, error)
        finally:
            shutil.rmtree(plan.contents.folder, ignore_errors=True)

    def _send_whole(self, folder: Path, name: str, message: str) -> None:
        from huggingface_hub import HfApi

        api = HfApi(token=self.training.hub_token)
        try:
            with explain_failures(api, self.target):
                upload(api, self.target, folder, ["*"], message=f"{message}, checkpoint", path_in_repo=name)
        except (OSError, ValueError) as error:
            self._warn(message, error, f" as {name}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _link(source: str, place: str) -> str:
    """Hard-link a file to a second path, or copy it if the file system cannot link."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
    return place
