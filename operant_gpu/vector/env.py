"""`VecEnv`: many environments stepped together, as a `gymnasium.vector.VectorEnv` of device tensors."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from operant_gpu import parameters, tables
from operant_gpu.backends import compilations, select
from operant_gpu.backends.base import NO_LIMIT, Backend, Batch
from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, ResetNeeded, flag, whole
from operant_gpu.memory import allocation
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.rows import Copy, NewStreams, Rows, rows_of
from operant_gpu.memory.trajectory import Storage
from operant_gpu.mlp import MLP
from operant_gpu.parameters import saveable
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector import checks, graphs
from operant_gpu.vector.actions import ActionReader, faulty, helpless_ones, raise_helpless, raise_outside, raise_refused
from operant_gpu.vector.explaining import Explanation, Subject, explain_step
from operant_gpu.vector.faults import FaultKeeper, Faults
from operant_gpu.vector.results import Results
from operant_gpu.vector.snapshots import Place, Snapshot, fitted
from operant_gpu.vector.starts import random_steps
from operant_gpu.vector.turns import Turns

Info = dict[str, Any]
T = TypeVar("T")


class VecEnv(VectorEnv[Any, Any, Any]):
    """Step `num_envs` environments together, on a GPU or a CPU.

    What `reset` and `step` return is the library's own memory, which every call overwrites. Call `.clone()` on anything
    you keep, or construct with `copy=True`. `step` does not synchronise with the device and can be captured in a CUDA
    graph. One thread at a time may use it. Make one by calling an `Environment`, or with `operant_gpu.make`.

    Args:
        environment: The definition.
        num_envs: How many environments, from 1 to what the device's memory holds.
        params: The environment's parameters that are not to have their default values, by name: numbers; tensors or
            arrays, () for all environments or (num_envs,) for each; or distributions of `operant_gpu.randomization`
            (as such or as text, "5..15"), of which each episode draws. Tables too: arrays or tensors.
        device: "auto", "cpu", "cuda" or `"cuda:<index>"`. "auto" is a GPU, if there is one and what the environment
            needs for it.
        backend: "auto"; "triton", "numba" or "numpy" for an `Environment`; "cuda" or "cpp" for a `CudaEnvironment`.
        autoreset_mode: SAME_STEP (the step that ends an episode resets it, `info["final_obs"]` holds its last
            observation), NEXT_STEP (the following step resets, ignores the action and gives reward 0) or DISABLED
            (the caller resets with `options={"reset_mask": mask}`). Give an `AutoresetMode` or its name; "SAME_STEP",
            "same_step" and "SameStep" are the same name.
        max_episode_steps: Steps after which an episode is truncated; None for the environment's own limit, -1 for none.
        output: Arrays that come back: "torch", "numpy" (CPU) or "cupy" (GPU); views of the same memory. CuPy must run
            on torch's current stream to see each step finished.
        copy: Whether to return fresh arrays at each call.
        debug: Whether each step, reset and rollout synchronises and raises at once: `ActionError` for invalid action
            values, and where no action is legal, as `check` does; `TableError` for indices beyond a table. What `reset`
            and `step` return are then copies, in three sets of memory in turn, and a warning says once if something
            still uses what `step` returned two steps ago. "faults" keeps the steps that go wrong, and nothing waits:
            where an action is refused, or where state, reward or observation is not finite, the environment stops. It
            stays as it was, with reward 0, until it is reset, and `faults` has what preceded.
        render_mode: "rgb_array" if `render` is to be called, else None.
        first_env_id: Id of the first environment in the random streams: processes that share a set of environments
            each give their own.

    Attributes:
        environment: The definition.
        given_params: The parameters as they were given: numbers, copies of tensors, and distributions.
        device: Where the tensors are.
        backend: Name of the backend.
        slow_path: Why `backend="auto"` took none that is faster; None if there is none, or one was named.
        autoreset_mode: When ended environments are reset.
        output: The library whose arrays come back.
        max_episode_steps: The time limit in force, or None.
        stores_rows: Whether an environment's observation, and its action mask, lie side by side in memory, and not
            component by component.
        action_mask: Which actions are legal in the present states: a live bool array (num_envs, n), as the last
            `reset`, `observe` or `step` wrote it (a `step` with one in `out` writes there), or None if the environment
            has no mask. A column stands for each action of Discrete, for MultiDiscrete component after component.

    Raises:
        InvalidConfig: If a setting makes no sense.
        BackendError: If the device or backend is not available.
        UnsupportedConstruct: If an environment function uses what the backend does not know.
    """

    environment: Definition
    given_params: Any
    device: torch.device
    backend: str
    slow_path: str | None
    autoreset_mode: AutoresetMode
    output: str
    max_episode_steps: int | None
    stores_rows: bool
    action_mask: Any

    # What is made in inference mode could not be written outside.
    @torch.inference_mode(False)
    def __init__(
        self,
        environment: Definition,
        num_envs: int = 1,
        *,
        params: Mapping[str, Any] | None = None,
        device: str | torch.device = "auto",
        backend: str = "auto",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        output: str = "torch",
        copy: bool = False,
        debug: bool | str = False,
        render_mode: str | None = None,
        first_env_id: int = 0,
    ) -> None:
        self.environment = checks.definition(environment)
        self.given_params, as_tables = environment.make_given({} if params is None else params)
        as_given, self._given_tables = self.given_params, tables.kept(as_tables)
        self.single_observation_space, self.single_action_space = environment.spaces(as_given, as_tables)
        self.autoreset_mode = checks.autoreset_mode(autoreset_mode)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 30, "autoreset_mode": self.autoreset_mode}
        self.render_mode = checks.render_mode(render_mode, environment)
        self._debug, keeps_faults = checks.debug(debug)
        notes = self._debug and environment.has_tables
        trial = try_out(environment, as_given, as_tables, notes)
        self.device, self.backend = select.resolve(environment, trial, device, backend)
        slower = select.why_slower(environment, trial, device, self.backend) if backend == "auto" else None
        self.slow_path = slower
        layout, obs = action_layout(self.single_action_space), observation_layout(self.single_observation_space)
        mask_size = layout.num_actions if environment.has_action_mask else 0
        self._layout, self._shape = obs, obs.shape
        bytes_each = allocation.bytes_per_env(environment, as_given, obs, mask_size)
        self.num_envs = allocation.check_num_envs(num_envs, bytes_each, self.device)
        self._memory = parameters.allocated(as_given, self.num_envs, self.device)
        self._params = as_given._replace(**self._memory)
        self._tables = as_tables._replace(**tables.allocated(as_tables, self.device))
        self._state = allocation.allocate_state(environment, as_given, self.num_envs, self.device)
        self._first_env_id = checks.first_env_id(first_env_id, self.num_envs)
        self._metric_rows, first = environment.metric_rows, self._first_env_id
        self._columns = allocation.allocate_columns(self.num_envs, self.device, first, self._metric_rows, notes)
        self._env_ids = self._columns.env_id.clone()
        self.stores_rows = select.BACKENDS[self.backend].stores_rows
        self._storage = Storage(self.num_envs, self.device, obs, layout, mask_size, self.stores_rows)
        self._outputs = self._storage.outputs(separate_final_obs=self.autoreset_mode is AutoresetMode.SAME_STEP)
        self._reader = ActionReader(layout, self.num_envs, self.device)
        self._limit = checks.step_limit(max_episode_steps, environment)
        self.max_episode_steps = None if self._limit == NO_LIMIT else self._limit
        memory = (self._memory, self._tables, self._state, self._columns)
        batch = Batch(
            environment, as_given, *memory, obs, layout, self._outputs, self._limit, self.autoreset_mode, trial
        )
        self._backend: Backend = select.create(self.backend, batch)
        self.output, self._export = allocation.exporter(output, self.device)
        self.action_mask = None if self._outputs.action_mask is None else self._export(self._outputs.action_mask)
        self._copy, self._started = flag("copy", copy), False
        self._turns = Turns() if self._debug and not self._copy else None
        metrics, how = self._metrics_in(self._columns.metrics), (self._export, self._copy, self._turns)
        self._results = Results(self._outputs, self._columns, metrics, self._shape, *how)
        self._rows = rows_of(self._state, self._columns, self._memory)
        self._keeper = None
        if keeps_faults:
            self._backend = self._keeper = FaultKeeper(self._backend, batch, self._rows, self._storage)
        self._streams = NewStreams(self._env_ids.clone(), torch.zeros_like(self._columns.seed))
        # Pairs of rows out of range, where nobody could look before.
        self._misses = torch.zeros((), dtype=torch.int64, device=self.device)
        self._all = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._none = torch.zeros_like(self._all)

    @property
    def params(self) -> Any:
        """The environment's parameters: numbers that are compiled in, and live tensors of those in memory.

        The next step reads the tensors, also under a CUDA graph: `env.params.gravity[:8] = 9.8` changes the present;
        what is drawn is there until the next episode begins. Nothing checks what is written.
        """
        return self._params

    @property
    def tables(self) -> Any:
        """The environment's tables: live tensors, of a fixed shape.

        The next step reads them, also under a CUDA graph: `env.tables.prices.copy_(others)` replaces one. Nothing
        checks what is written.
        """
        return self._tables

    @property
    def state(self) -> Any:
        """The environment's `State` of live tensors `(num_envs,)`, or `(num_envs, *shape)` for an `Array`.

        Writable in place (see `observe`). Nothing checks what is written: in an environment in CUDA C++ a number that
        it never has, such as a place outside its board, may end the process.
        """
        return self._state

    @functools.cached_property
    def observation_space(self) -> Space[Any]:  # type: ignore[override]
        """The space of a batch of observations."""
        return batch_space(self.single_observation_space, self.num_envs)

    @functools.cached_property
    def action_space(self) -> Space[Any]:  # type: ignore[override]
        """The space of a batch of actions."""
        return batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, Info]:
        """Begin new episodes.

        Args:
            seed: Restarts the random streams: one integer from 0 to `2**63 - 1` for all (environments differ by their
                ids), or one per environment (environments with equal seeds then behave alike, wherever they
                stand; None leaves one's stream as it is). Without a seed the streams go on; the very first come
                from the operating system.
            options: `{"reset_mask": mask}` resets only where the bool mask (num_envs,) holds; an observation is
                returned for every environment. `{"elapsed": steps}` begins episodes as if so many steps had been taken,
                an integer or one for each environment (num_envs,), below the time limit; with "random" each draws its
                own. Thousands of environments then do not all reach the limit in the same step. These steps count
                in the length of the episode, not in its return.

        Returns:
            obs (tensor or array): Observations `(num_envs, *shape)` of the space's dtype.
            info (dict): `action_mask`, `(num_envs, n)` bool, says which actions are legal now. If the environment has
                no action mask, the dictionary is empty.

        Raises:
            InvalidConfig: If the seed or an option is not as described.
            TableError: With `debug`, for an index beyond a table.
        """
        self._check_open()
        mask, elapsed = checks.reset_options(options, self.num_envs, self.device, self._limit)
        if mask is not None and not self._started:
            raise InvalidConfig("options", "the first reset takes every environment: call reset() before reset_mask")
        if mask is None:
            mask = self._all
            if self._turns is not None:
                self._turns.begin_reset()
        if not self._started:
            # For all that `seed` leaves open.
            self._reseed(secrets.randbits(63), mask)
        if seed is not None:
            self._reseed(seed, mask)
        self._backend.reset(mask, self._outputs)
        self._started = True
        if elapsed is not None:
            if isinstance(elapsed, str):
                elapsed = random_steps(self._columns, self._limit)
            self._columns.elapsed.copy_(torch.where(mask, elapsed, self._columns.elapsed))
        if self._debug:
            self._check(self._outputs.action_mask)
        shown = self._results.present()
        return shown.obs, {} if shown.action_mask is None else {"action_mask": shown.action_mask}

    def observe(self) -> Any:
        """Return the observations of the present state, after it was written through `state`; refresh `action_mask`."""
        self._check_started()
        self._backend.reset(self._none, self._outputs)
        return self._results.present().obs

    def step(self, actions: Any, out: Mapping[str, Tensor] | None = None) -> tuple[Any, Any, Any, Any, Info]:
        """Take one step in every environment, and overwrite what the last call returned, unless made with `copy=True`.

        Args:
            actions: int32 or int64 (num_envs,) for Discrete, (num_envs, k) for MultiDiscrete, float32 (num_envs, k)
                for Box; a tensor or DLPack array on `device`, on a CPU also a NumPy array or a list.
            out: Tensors to write into instead of the environment's own: any of "obs", "final_obs" (SAME_STEP only),
                "reward", "terminated", "truncated" and, if the environment has one, "action_mask". Observations and
                action masks may have any strides. The others must be contiguous.

        Returns:
            obs (tensor or array): Observations `(num_envs, *shape)` of the space's dtype.
            reward (tensor or array): Rewards `(num_envs,)`, float32.
            terminated (tensor or array): Whether the episode reached an end of the task, `(num_envs,)` bool.
            truncated (tensor or array): Whether the episode reached its time limit in this step, `(num_envs,)` bool.
                It can be true together with `terminated`: add the value of `final_obs` only where a step is truncated
                and not terminated.
            info (dict): A new dictionary with the same arrays at each call. Do not write to them: the environments go
                on from them.

                - `final_obs`: the observations before any reset, `(num_envs, *shape)`, valid in every row. In NEXT_STEP
                  and DISABLED mode it is the same memory as `obs`.
                - `episode`: the return "r", `(num_envs,)` float64, and the length "l", `(num_envs,)` int32, of the
                  episode up to and including this step. Where the step ends the episode, they are those of the
                  whole episode. Both are 0 in the step of NEXT_STEP mode that resets.
                - `action_mask`, if the environment has one: which actions are legal in the states that `obs` shows,
                  `(num_envs, n)` bool. The environment's `step` decides what an illegal action does.
                - `metrics`, if the environment has some: a dictionary from names to values of the episode so far,
                  `(num_envs,)` float64.
                - `_final_obs`, `_episode` and `_metrics`: the same array, which episodes have ended, `(num_envs,)`
                  bool. In DISABLED mode it stays true at each step until the environment is reset. So use
                  `terminated | truncated` to count episodes there: these are true only in the step that ends one.

        Raises:
            ActionError: If actions have the wrong shape, dtype or device; with `debug`, also for values out of
                range or not finite. Without, such environments stay as they are, and `check` and `get_logs` raise.
            InvalidConfig: If a tensor in `out` does not fit.
            TableError: With `debug`, for an index beyond a table.
            ResetNeeded: Before the first reset.
        """
        self._check_started()
        tensor = self._reader.read(actions)
        outputs = self._outputs if out is None else self._storage.redirected(self._outputs, out)
        if self._turns is not None:
            self._turns.begin_step(out or ())
        self._backend.step(tensor, outputs)
        if self._debug:
            self._check(outputs.action_mask)
        shown = self._results.present() if out is None else self._results.of_step(outputs, out)
        return shown.obs, shown.reward, shown.terminated, shown.truncated, shown.info()

    def rollout(
        self, num_steps: int, policy: Any = "random", out: Mapping[str, Tensor] | Iterable[str] = ()
    ) -> dict[str, Any]:
        """Take `num_steps` steps in every environment with one call.

        On a GPU that is one kernel, but where PyTorch has to evaluate a network: for an environment with arrays or in
        CUDA C++.

        The states, flags, rewards and statistics are bit for bit those of as many single steps with the same actions.
        What is not named in `out` is not stored, and with nothing named the statistics of `get_logs` and the state are
        all that is left. The observations and the action mask that `reset` returned show the state after the last
        step; rewards, flags and `final_obs` of the last single step stay as they were. In DISABLED mode, ended
        environments wait, with reward 0.

        Args:
            num_steps: How many steps.
            policy: "random" for actions that are uniform on the legal ones, or on the bounds of a Box; a tensor of
                actions (num_steps, num_envs, ...), each row as for `step`; or an `MLPPolicy`, which sees the
                observations and draws. Draws come from the environments' streams, by step within the episode.
            out: Names of what to store, in fresh tensors; or the tensors themselves by name, such as an
                earlier rollout returned (with `output="torch"`). All are (num_steps, num_envs, ...). Tensors of your
                own for observations, actions and action masks may have any strides. In the others, the environments of
                a step must be contiguous.

                - "obs": the observations that the actions are for, `(num_steps, num_envs, *shape)`.
                - "action_mask": which actions were legal, bool, where the environment tells.
                - "action": what the environments got, int64 (or int32) or float32: given to another rollout or to
                  `step`, they lead to the same.
                - "policy_action": what an `MLPPolicy` drew, likewise: for a Box before it is scaled and clipped.
                - "log_prob", "value": of `policy_action` and of the observation, by an `MLPPolicy`.
                - "reward", "terminated", "truncated": float32, bool, bool.
                - "final_obs": what follows the step, before any reset (in NEXT_STEP mode a reset is a step of its own).
                - "final_value": the value of `final_obs` where the episode was truncated and not terminated, or goes on
                  after the last step; else 0. With `value` it is all that advantages need.

        Returns:
            The tensors by name.

        Raises:
            ActionError: If given actions have the wrong shape, dtype or device; with `debug`, also for their values.
            InvalidConfig: If the number of steps, the policy or `out` make no sense here.
            TableError: With `debug`, for an index beyond a table.
            ResetNeeded: Before the first reset.
        """
        self._check_started()
        num_steps = checks.num_steps(num_steps)
        taken = self._reader.read_policy(policy, num_steps, self._layout)
        tensors = self._storage.tensors(out, num_steps, isinstance(taken, MLP))
        self._backend.rollout(num_steps, taken, self._storage.trajectory(tensors), self._outputs)
        if self._debug:
            self._check(self._outputs.action_mask)
            # What was returned last shows the state after the last step.
            self._results.present()
        return {name: self._export(tensor) for name, tensor in tensors.items()}

    def snapshot(self, indices: Any = None) -> Snapshot:
        """Return some environments as they are now: state, clock, key of the draws, drawn parameters, statistics.

        These are of the episode under way. Sums over episodes that have finished, and what `check` counts, stay here.
        Nothing waits for the device, if the indices are there.

        Args:
            indices: Which: integers as a list, an array or a tensor; all if None.

        Raises:
            InvalidConfig: If there is no such environment; indices on a GPU are looked at by `check`.
            ResetNeeded: Before the first reset.
        """
        self._check_started()
        chosen = None if indices is None else checks.rows_chosen("indices", indices, self.num_envs, self.device)
        count = self.num_envs if chosen is None else len(chosen)
        taken = self._rows.empty(count)
        self._move(Copy(count, self._rows, chosen, taken, None, self._misses))
        return self._snapshot_of(taken)

    def _snapshot_of(self, rows: Rows) -> Snapshot:
        numbers = {name: value for name, value in self.params._asdict().items() if not isinstance(value, Tensor)}
        return Snapshot(self.environment.id, self.autoreset_mode.value, numbers, *rows)

    def restore(self, snapshot: Snapshot, indices: Any = None, *, new_streams: bool = False) -> None:
        """Put a snapshot's environments into some of these: they go on as they would have where it was taken.

        They may have been on another backend or device, or of another number. What is of the whole batch stays: the
        time limit, when ended episodes are reset, tables, parameters that are shared. `observe` gives the observations.

        Args:
            snapshot: As many environments as there are indices; `snapshot[[0] * 64]` has one 64 times.
            indices: Which of these become so, each once; all if None. With all, no reset is needed before.
            new_streams: As for `branch`.

        Raises:
            InvalidConfig: If the snapshot is of another definition, of other numbers as parameters, or of another
                length, or if there is no such environment; nothing is changed then.
            ResetNeeded: If there was no reset yet, and `indices` are given; or after `close`.
        """
        self._check_open() if indices is None else self._check_started()
        rows, streams = self._fitted(snapshot, self.autoreset_mode.value), self._new_streams(new_streams)
        chosen, count = None, self.num_envs
        if indices is not None:
            chosen = checks.rows_chosen("indices", indices, self.num_envs, self.device, distinct=True)
            count = len(chosen)
        if count != len(snapshot):
            raise InvalidConfig("snapshot", f"has {len(snapshot)} rows, for {count} environments: snapshot[indices]")
        self._move(Copy(count, rows, None, self._rows, chosen, self._misses, streams))
        self._started = True

    def branch(self, sources: Any, targets: Any = None, *, new_streams: bool = False) -> None:
        """Copy environments onto others: number `targets[i]` becomes as `sources[i]` is now.

        All of an episode is copied, as in a `snapshot`: a branch has its source's future, if it gets the same actions.
        It is as if all sources were read before any target is written. No step is taken. With indices that are int64
        tensors on the device nothing waits for it, and a CUDA graph can capture it, whose replays read them anew.
        `observe` gives the observations after it.

        Args:
            sources: Which are copied, integers as a list, an array or a tensor; one may be there several times.
            targets: Which they become, as many, each once; all environments if None.
            new_streams: Whether each target draws its own from now on, in the episode under way too. It gets back
                its own environment id, and a seed made from its source's seed, its id, and how many it has had since
                `reset(seed=...)`. So no environment of these ever draws what it or another has drawn, but with
                probability `2**-63`. Another batch with the same ids would: give it a `first_env_id` of its own.

        Raises:
            InvalidConfig: If there is no such environment, or a target is there twice. Of indices on a GPU, pairs out
                of range are left out, and `check` tells; of equal targets it is not said what they become.
            ResetNeeded: Before the first reset.
        """
        self._check_started()
        read = checks.rows_chosen("sources", sources, self.num_envs, self.device)
        written, count = None, self.num_envs
        if targets is not None:
            written = checks.rows_chosen("targets", targets, self.num_envs, self.device, distinct=True)
            count = len(written)
        if len(read) != count:
            raise InvalidConfig("sources", f"{len(read)} sources for {count} targets: give one for each")
        streams = self._new_streams(new_streams)
        self._move(Copy(count, self._rows, read, self._rows, written, self._misses, streams))

    def _new_streams(self, wanted: bool) -> NewStreams | None:
        return self._streams if flag("new_streams", wanted) else None

    @property
    def stopped(self) -> Tensor | None:
        """Which environments a fault has stopped, bool (num_envs,), live; None without `debug="faults"`."""
        return None if self._keeper is None else self._keeper.stopped

    @property
    def fault_count(self) -> Tensor | None:
        """How many steps have gone wrong, int64 (), live; None without `debug="faults"`."""
        return None if self._keeper is None else self._keeper.total

    def faults(self) -> Faults:
        """Return the first hundred steps that went wrong, with what preceded them. Waits for the device.

        `explain(faults.snapshot, faults[0].action)` takes the first of them apart.

        Raises:
            InvalidConfig: Without `debug="faults"`.
        """
        if self._keeper is None:
            raise InvalidConfig("debug", "no faults are kept: make the environments with debug='faults'")
        given = saveable(self.given_params._asdict())
        # What each was given for itself is in the rows.
        shared = {name: self._memory[name] for name, one in given.items() if isinstance(one, Tensor) and not one.ndim}
        params = {name: one for name, one in given.items() if not isinstance(one, Tensor)} | shared
        about = {"params": params, "tables": self._tables._asdict(), "max_episode_steps": self.max_episode_steps}
        return Faults(self._keeper.content(self._snapshot_of, about))

    def save_faults(self, path: str | os.PathLike[str]) -> None:
        """Write what `faults` returns to a file, which `operant-gpu replay` reads; whole or not at all.

        Raises:
            InvalidConfig: Without `debug="faults"`.
            CheckpointError: If it cannot be written.
        """
        self.faults().save(path)

    def explain(self, snapshot: Snapshot, action: Any, row: int = 0) -> Explanation:
        """Take a step of one environment on NumPy, from the author's source, and tell what each statement comes to.

        Nothing here is changed. Of an environment in CUDA C++ it tells state and draws, and what the "cpp" backend
        does under the sanitizers of addresses and of undefined behaviour.

        Args:
            snapshot: Of environments like these.
            action: What it is given: a number, or (k,) numbers.
            row: Which of the snapshot's environments.

        Raises:
            InvalidConfig: If the snapshot is of others, or has no such row.
            ActionError: If the action has another shape.
        """
        rows = self._fitted(snapshot, getattr(snapshot, "autoreset_mode", ""))
        alone = snapshot.with_rows(rows)[whole("row", row, 0, len(snapshot) - 1)].to("cpu")
        shared = {name: own.cpu() for name, own in self._memory.items() if not own.ndim}
        tables_here = type(self._tables)(*(table.cpu() for table in self._tables))
        subject = Subject(
            self.environment, self.given_params, shared, tables_here, self._reader.layout, self.max_episode_steps
        )
        return explain_step(subject, alone, self._reader.read_one(action))

    def _move(self, copy: Copy) -> None:
        if self._keeper is not None and copy.targets is self._rows:
            self._keeper.release(copy.target_rows)
        if copy.pairs:
            select.row_copier(self.backend)(copy)
        if self._debug:
            self._check_misses()

    def _fitted(self, snapshot: Any, mode: str) -> Rows:
        """Return a snapshot's rows as environments like these have them, in an auto-reset mode."""
        return fitted(snapshot, Place(self.environment.id, mode, self.params, self._rows, self._metric_rows))

    def compile(self, *calls: Callable[[VecEnv], Any]) -> int:
        """Compile what resets and steps run, so that the first of each does not wait for it.

        That takes seconds, once: later processes find it on disk. These environments stay as they are. It is done with
        others like them, which take as much memory meanwhile.

        Args:
            calls: What else to compile for: each is called with such environments, which have been reset. Rollouts, for
                example, are compiled for a policy's shape and for what is stored:
                `env.compile(lambda env: env.rollout(8, policy, out=["obs", "reward"]))`.

        Returns:
            How many programs and kernels were compiled now.
        """
        before, (twin, identity, _) = compilations.count(), self.__reduce__()
        with twin(*identity) as env:
            env.reset(seed=0)
            action = np.asarray(self.single_action_space.sample())
            env.step(torch.as_tensor(action, device=self.device).expand(self.num_envs, *action.shape).contiguous())
            for call in calls:
                call(env)
        return compilations.count() - before

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """Return a function that does what `function` does, by the replay of one CUDA graph.

        A loop of one's own then costs the host one launch a round, whatever it does: a policy in PyTorch, a step and
        what is stored of it. `function` is called twice here, once as a trial and once to record its kernels. Then
        the environments stand where they stood. All else that it changed stays changed, such as weights or
        the state of a generator. On a CPU there are no graphs: `function` itself comes back, and is not called.

        Args:
            function: Takes no arguments. It must do the same work on the same memory at each call and never wait for
                the device, as `.item()` or a print does. What changes from call to call has to be written into tensors
                that it reads. What PyTorch's own generator draws is new at each replay.

        Returns:
            A function without arguments. It returns what `function` returned when it was recorded: the same tensors at
                each call, which each call overwrites.

        Raises:
            InvalidConfig: If the environments look at each step, with `debug`.
            ResetNeeded: Before the first reset.
            Exception: What `function` raised, or what CUDA said of the capture.
        """
        self._check_started()
        if not graphs.has_graphs(self.device):
            return function
        if self._debug:
            raise InvalidConfig("debug", "with debug=True each step waits for the device: capture without it")
        start, count = self.state_dict(), None if self.fault_count is None else self.fault_count.clone()
        shown = Outputs(*(one if one is None else one.clone() for one in self._outputs))  # type: ignore[arg-type]
        # PyTorch makes what belongs to a graph on the current device.
        with torch.cuda.device(self.device):
            try:
                stream = graphs.warmed_up(function, self.device)
            finally:
                self.load_state_dict(start)
                self._show(shown)
                if self._keeper is not None and count is not None:
                    # What the trial has kept is overwritten.
                    self._keeper.total.copy_(count)
            graph, result = graphs.captured(function, stream)

        # It also keeps what the graph reads, which the function knows.
        @functools.wraps(function)
        def replay() -> T:
            graph.replay()
            return result

        return replay

    def parameters(self, num_envs: int) -> dict[str, Any]:
        """Return what makes `num_envs` environments with parameters and tables like these, on any device.

        That is numbers, distributions, and tensors on the CPU with what they are now. Of one (num_envs,), other
        environments get numbers that are evenly spread over these.
        """
        spread = torch.arange(num_envs) * self.num_envs // num_envs
        given = self.given_params._asdict()
        tensors = {name: one.cpu() for name, one in self._memory.items() if isinstance(given[name], Tensor)}
        own = {name: table.cpu().clone() for name, table in self._tables._asdict().items()}
        return {**given, **{name: one[spread] if one.ndim else one.clone() for name, one in tensors.items()}, **own}

    @property
    def first_env_id(self) -> int:
        """Id of the first environment in the random streams. What is written holds from the next `reset(seed=...)`."""
        return self._first_env_id

    @first_env_id.setter
    def first_env_id(self, value: int) -> None:
        self._first_env_id = checks.first_env_id(value, self.num_envs)
        last = self._first_env_id + self.num_envs
        self._env_ids.copy_(torch.arange(self._first_env_id, last, device=self.device))

    @property
    def given(self) -> dict[str, Any]:
        """What the environments were made with: parameters and tables, by name."""
        return {**self.given_params._asdict(), **self._given_tables}

    @property
    def shown(self) -> Tensor:
        """The environments' own memory of what they showed last, `(num_envs, *shape)`: nothing is computed."""
        return allocation.unflattened(self._outputs.obs, self._shape)

    @property
    def episode_so_far(self) -> tuple[Tensor, Tensor]:
        """Return and length of the episode under way, (num_envs,) float64 and int32; 0 once it has ended."""
        columns = self._columns
        return columns.episode_return.masked_fill(columns.ended, 0.0), columns.elapsed.masked_fill(columns.ended, 0)

    @property
    def metric_sums(self) -> dict[str, Tensor]:
        """Of each metric the sums of what it came to in each environment's episodes, (num_envs,) float64, live.

        Of those that finished since the logs were cleared.
        """
        return self._metrics_in(self._columns.log_metrics)

    def _metrics_in(self, rows: Tensor | None) -> dict[str, Tensor]:
        """Return the rows of memory that are metrics, by name."""
        if rows is None:
            return {}
        return {one.name: row for one, row in zip(self._metric_rows, rows, strict=True) if one.name}

    def check(self) -> None:
        """Raise if any step since the last check was given an action it could not take, or no action is legal now.

        Synchronises with the device. The counts start again from zero.

        Raises:
            InvalidConfig: With the number of rows that `branch`, `snapshot` and `restore` left out, since indices on a
                GPU were out of range.
            ResetNeeded: If an environment has begun more than `2**31` episodes.
            TableError: With `debug`, for indices beyond a table.
            ActionError: With the number of such actions and the first environment that got one; or with the number of
                environments under way whose `action_mask` leaves nothing to do, and the first of them.
        """
        self._refresh_mask()
        self._check(self._outputs.action_mask)

    def would_raise(self) -> Tensor:
        """Return whether `check` raises, a bool () on the device: nothing waits until it is read."""
        self._refresh_mask()
        return self._faulty(self._outputs.action_mask)

    def _refresh_mask(self) -> None:
        if self._started and self._outputs.action_mask is not None:
            # A step may have written its mask elsewhere, and the caller the state.
            self.observe()

    def get_logs(self, clear: bool = False) -> dict[str, float]:
        """Return statistics of the episodes finished since the logs were last cleared.

        Synchronises with the device.

        Args:
            clear: Whether to start again from zero.

        Returns:
            "episode_count"; "mean_reward", the mean return of an episode, which is the sum of its rewards;
                "mean_length"; and the mean of each metric of an episode. The means are NaN while no episode has
                finished. After `reset(options={"elapsed": ...})`, lengths include the elapsed steps, and returns have
                no rewards of them.

        Raises:
            OperantError: What `check` raises.
        """
        clear = flag("clear", clear)
        self.check()
        columns, own = self._columns, self.metric_sums
        logs = (columns.log_count, columns.log_return, columns.log_length, *own.values())
        count, *totals = torch.stack([column.sum(dtype=torch.float64) for column in logs]).tolist()
        if clear:
            for column in logs:
                column.zero_()
        names = ("mean_reward", "mean_length", *own)
        means = {name: total / count if count else float("nan") for name, total in zip(names, totals, strict=True)}
        return {"episode_count": int(count), **means}

    def state_dict(self) -> Info:
        """Return a copy of everything that decides the future: state, clocks, seeds, statistics, tables."""
        return {
            "format": checks.STATE_FORMAT,
            **self._identity(),
            "started": self._started,
            "first_env_id": self._first_env_id,
            "state": {name: column.clone() for name, column in self.state._asdict().items()},
            "columns": {name: column.clone() for name, column in self._kept().items()},
            "memory": {name: tensor.clone() for name, tensor in self._memory.items()},
            "tables": {name: table.clone() for name, table in self._tables._asdict().items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken; `observe` then gives the observations of that moment.

        Raises:
            InvalidConfig: If it belongs to other environments; nothing is changed then.
            ResetNeeded: After `close`.
        """
        self._check_open()
        tensors = {"state": self.state._asdict(), "columns": self._kept(), "memory": self._memory}
        tensors["tables"] = self._tables._asdict()
        pairs = checks.saved(state_dict, self._identity(), tensors)
        started = flag("state_dict", state_dict.get("started", False))
        self.first_env_id = state_dict.get("first_env_id", 0)
        for column, saved_column in pairs:
            column.copy_(saved_column)
        self._started = started

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a twin, in memory of its own: with the same future, and the outputs of the last step."""
        settings: dict[str, Any] = {
            # As they were given: what was written since need not be what an author's `validate` takes.
            "params": self.given,
            "device": str(self.device),
            "backend": self.backend,
            "autoreset_mode": self.autoreset_mode,
            "max_episode_steps": -1 if self.max_episode_steps is None else self.max_episode_steps,
            "output": self.output,
            "copy": self._copy,
            "debug": "faults" if self._keeper is not None else self._debug,
            "render_mode": self.render_mode,
        }
        twin = functools.partial(type(self), **settings)
        return twin, (self.environment, self.num_envs), (self.state_dict(), self._outputs, self.closed)

    def __setstate__(self, state: tuple[Info, Outputs, bool]) -> None:
        """Go on as the twin of another."""
        saved, outputs, closed = state
        self.load_state_dict(saved)
        self.closed = closed
        self._show(outputs)

    def _show(self, outputs: Outputs) -> None:
        """Write others' outputs into the environments' own."""
        for own, given in zip(self._outputs, outputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)

    def render(self, indices: Iterable[int] | int | None = None) -> tuple[np.ndarray[Any, Any], ...] | None:
        """Draw environments.

        Args:
            indices: Which ones, or which one; all if None.

        Returns:
            One uint8 array (height, width, 3) for each, or None without `render_mode="rgb_array"`.

        Raises:
            InvalidConfig: If an index is none, or out of range, or `draw` returns no picture.
        """
        if self.render_mode is None or self.environment.draw is None:
            return None
        chosen = list(range(self.num_envs)) if indices is None else checks.indices(indices, self.num_envs)
        columns = (column[chosen].cpu() for column in self.state)
        rows = zip(*(column.tolist() if column.ndim == 1 else column.numpy() for column in columns), strict=True)
        memory = {name: one.expand(self.num_envs)[chosen].tolist() for name, one in self._memory.items()}
        params = (self.params._replace(**{name: one[i] for name, one in memory.items()}) for i in range(len(chosen)))
        draw, state, tabled = self.environment.draw, self.environment.state, self.environment.table_arrays(self._tables)
        frames = (draw(state(*row), own, *tabled) for row, own in zip(rows, params, strict=True))
        return tuple(checks.picture(frame, self.environment.id) for frame in frames)

    def __enter__(self) -> VecEnv:
        """Close the environments at the end of a `with` statement."""
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close_extras(self, **kwargs: Any) -> None:
        """Take no further steps."""
        self._started = False

    def __repr__(self) -> str:
        defaults, given = self.given_params._field_defaults, parameters.described(self.given_params._asdict())
        others = "".join(f"{name}={text}, " for name, text in given.items() if text != defaults[name])
        where = f"backend={self.backend!r}, device='{self.device}'"
        return f"VecEnv({self.environment.id}, num_envs={self.num_envs}, {others}{where})"

    def _identity(self) -> Info:
        return {
            "id": self.environment.id,
            "params": parameters.described(self.given),
            "num_envs": self.num_envs,
            "max_episode_steps": self._limit,
            "autoreset_mode": self.autoreset_mode.value,
        }

    def _check(self, mask: Tensor | None) -> None:
        """Do as `check`, with the action mask of the present states."""
        if not self._faulty(mask):
            return
        self._check_misses()
        raise_refused(self._columns, self.single_action_space)
        if self._columns.outside is not None:
            raise_outside(self._columns.outside, self._tables)
        if mask is not None:
            raise_helpless(mask, self._over, self._reader.layout)

    @property
    def _over(self) -> Tensor | None:
        """What has ended takes no action, but where its mask is already that of the next episode."""
        return None if self.autoreset_mode is AutoresetMode.SAME_STEP else self._columns.ended

    def _faulty(self, mask: Tensor | None) -> Tensor:
        """Return whether `_check` raises, on the device."""
        mask = mask if self._started else None
        helpless = None if mask is None else helpless_ones(mask, self._over, self._reader.layout)
        return faulty(self._columns, helpless) | (self._misses != 0)

    def _check_misses(self) -> None:
        if count := int(self._misses):
            self._misses.zero_()
            message = f"{count} pairs with a row out of range were not copied: there are {self.num_envs} environments"
            raise InvalidConfig("indices", message)

    def _check_open(self) -> None:
        if self.closed:
            raise ResetNeeded(f"{self} is closed: make a new one")

    def _check_started(self) -> None:
        if not self._started:
            self._check_open()
            raise ResetNeeded("call reset() first: there is no episode yet")

    def _reseed(self, seed: Any, mask: Tensor) -> None:
        """Restart the streams where the mask holds."""
        columns, given = self._columns, checks.seeds(seed, self.num_envs)
        restarts = mask is self._all and (isinstance(given, int) or None not in given)
        if isinstance(given, int):
            seeds, env_ids = torch.full_like(columns.seed, given), self._env_ids
        else:
            seeds = torch.tensor([one or 0 for one in given], device=self.device)
            mask = mask & torch.tensor([one is not None for one in given], device=self.device)
            env_ids = torch.zeros_like(columns.env_id)
        columns.seed.copy_(torch.where(mask, seeds, columns.seed))
        columns.env_id.copy_(torch.where(mask, env_ids, columns.env_id))
        columns.episode.masked_fill_(mask, -1)
        if restarts:
            # Not of some alone: a place might be given a key again that it has had.
            self._streams.counts.zero_()
            self._streams.env_ids.copy_(self._env_ids)

    def _kept(self) -> dict[str, Tensor]:
        """Return the columns that decide the future."""
        kept = {name: one for name, one in self._columns._asdict().items() if one is not None and name != "outside"}
        own = {} if self._keeper is None else {"stopped": self._keeper.stopped}
        return {**kept, "branches": self._streams.counts, **own}
