"""Plain student roll-outs with vLLM, in this process, with the weights of the moment.

Before its first roll-out after an update it is given the weights, and after every roll-out its
log-probs are compared with the student's own.
Shapes: T tokens of one response, K support.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.rollout import vllm_process
from tandem.rollout.agreement import Said, rescored
from tandem.rollout.engine import check
from tandem.rollout.protocol import Progress, StudentLike
from tandem.rollout.refusal import RequestRefused
from tandem.rollout.tally import Tally
from tandem.rollout.vllm_law import columns, law_processor, support_within
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec, TeacherSignal, limit_of

# Responses of a roll-out whose log-probs are compared with the student's own.
CHECKED = 8
# The largest mean distance in nats by the student's dtype. Arithmetic in another order moves a
# log-prob by about 1e-6 in float32 and 1e-2 in bfloat16; a head that was not updated, by 1e-1 and
# more.
GAP_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# Sharper laws vLLM takes for greedy ones, or blunts.
SHARPEST = 0.01


class VllmEngine:
    """Responses of one student alone.

    slots: rows decoded at once. longest: tokens of the longest prompt and response together.
    cache_per_token: bytes of keys and values of one token. gap_limit: nats, see GAP_LIMITS.
    vLLM starts when the first responses are due. A response depends on (seed, request) and, by
    rounding, on its company: another batch may draw other tokens.
    """

    def __init__(
        self,
        student: StudentLike,
        *,
        slots: int,
        longest: int,
        cache_per_token: int,
        gap_limit: float | None = None,
    ) -> None:
        self.student, self.slots = student, slots
        self.longest = min(longest, student.config.max_position_embeddings)
        self._cache_per_token = cache_per_token
        self._gap_limit = GAP_LIMITS[student.dtype] if gap_limit is None else gap_limit
        self._llm: Any = None
        self._own_group = False
        self._stale = True

    def generate(
        self,
        requests: Sequence[Request],
        *,
        behaviour: Behaviour,
        clock: Clock,
        sampling: Sampling,
        seed: int,
        record: SignalSpec,
        policy_version: int = 0,
        on_progress: Progress | None = None,
        tally: Tally | None = None,
    ) -> list[Rollout]:
        """One rollout per request, in their order, with CPU tensors.

        The behaviour must be the student itself. Of `record` only the student's parts are kept, as
        no teacher speaks here. The first responses carry `stats["engine_logp_gap"]`, [T]: how far
        vLLM's log-probs are from the student's own. Raises ValueError for requests that cannot be
        served, and where that distance is over the limit.
        """
        self._check(requests, behaviour, clock, sampling)
        if not requests:
            return []
        spec = record.within(self.student.vocabulary_size)
        outputs = self._run(requests, sampling, seed, spec.student_topk, on_progress)
        ids = [torch.tensor(list(output.token_ids)) for output in outputs]
        texts = [(r.student_ids, ids_T) for r, ids_T in zip(requests, ids, strict=True)]
        # What vLLM cannot say: the entropy, and log p where it sampled from another temperature.
        everything = spec.student_entropy or sampling.temperature not in (0.0, 1.0)
        compared = texts if everything else texts[:CHECKED]
        own = rescored(self.student, compared, temperature=sampling.temperature)
        found = [columns(output.logprobs) for output in outputs]
        gaps = _gaps(found, own, sampling.temperature)[:CHECKED]
        self._refuse_far(gaps)
        if tally is not None:
            tally.add(_alone(sum(map(len, ids))))
        return [
            Rollout(
                request=request,
                ids=ids[i],
                behaviour_logp=_behaviour_logp(found[i][1], sampling.temperature),
                student_logp=own[i].student_logp if everything else found[i][1],
                teacher_logp=None,
                author=torch.full_like(ids[i], int(behaviour.author(clock))),
                policy_version=policy_version,
                ended="eos" if int(ids[i][-1]) == self.student.end_id else "length",
                stats={"engine_logp_gap": gaps[i]} if i < len(gaps) else {},
                signal=TeacherSignal(
                    student_topk_ids=support_within(found[i][0], self.student.vocabulary_size)
                    if spec.student_topk
                    else None
                ),
                student_entropy=own[i].entropy if spec.student_entropy else None,
            )
            for i, request in enumerate(requests)
        ]

    def refresh(self) -> None:
        """The weights are handed over before the next roll-out."""
        self._stale = True

    def close(self) -> None:
        """Shut vLLM down, if it was started."""
        if self._llm is not None:
            vllm_process.stop(self._llm, own_group=self._own_group)
            self._llm = None

    def _check(
        self, requests: Sequence[Request], behaviour: Behaviour, clock: Clock, sampling: Sampling
    ) -> None:
        assert behaviour.is_student(clock), "vLLM speaks for the student alone"
        check(requests, sampling, vocabulary=self.student.vocabulary_size)
        if 0.0 < sampling.temperature < SHARPEST:
            raise ValueError(
                f"temperature is {sampling.temperature}, which vLLM does not sample from: give 0 "
                f"(greedy) or at least {SHARPEST}"
            )
        for request in requests:
            assert not request.forced_ids, "vLLM draws every token"
            asked = len(request.student_ids) + sampling.max_new_tokens
            if not request.student_ids or asked > self.longest:
                raise RequestRefused(
                    request,
                    f"has {len(request.student_ids)} prompt tokens and asks for "
                    f"{sampling.max_new_tokens} new ones, but vLLM was started for 1 or more and "
                    f"for {self.longest} together: allow shorter prompts or fewer new tokens",
                )

    def _run(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        seed: int,
        support: int,
        on_progress: Progress | None,
    ) -> list[Any]:
        """vLLM's outputs in the order of the requests."""
        llm = self._awake()
        parameters = import_module("vllm").SamplingParams
        llm.enqueue(
            [{"prompt_token_ids": list(request.student_ids)} for request in requests],
            [
                parameters(
                    max_tokens=limit_of(request, sampling.max_new_tokens),
                    temperature=sampling.temperature,
                    seed=_seed(seed, request),
                    logprobs=support,
                    # The only end that the processor lets through; the model's own list is not
                    # asked, which may name ids that are no end here.
                    stop_token_ids=[self.student.end_id],
                    ignore_eos=True,
                    detokenize=False,
                    flat_logprobs=True,
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        finished: list[Any] = []
        tokens = 0
        # Compiling the sampler's helpers for a CPU takes longer than the roll-out.
        with torch.compiler.set_stance("force_eager" if self._on_cpu else "default"):
            while llm.llm_engine.has_unfinished_requests():
                for output in llm.llm_engine.step():
                    if output.finished:
                        finished.append(output)
                        tokens += len(output.outputs[0].token_ids)
                if on_progress is not None:
                    on_progress(tokens, len(finished))
        if not self._on_cpu:
            # Weights to the host, the cache away: the update needs the room.
            llm.sleep(level=1)
        # vLLM counts requests as they come.
        return [o.outputs[0] for o in sorted(finished, key=lambda o: int(o.request_id))]

    @property
    def _on_cpu(self) -> bool:
        return self.student.device.type == "cpu"

    def _awake(self) -> Any:
        """vLLM, started and awake, with the student's weights of now."""
        if self._llm is None:
            self._own_group = not vllm_process.has_group()
            self._llm = vllm_process.start(
                self.student,
                [law_processor(self.student)],
                slots=self.slots,
                longest=self.longest,
                cache_per_token=self._cache_per_token,
            )
        elif not self._on_cpu:
            self._llm.wake_up()
        if self._stale:
            # Both names of a tied head: vLLM keeps the old head where only the embedding comes.
            named = self.student.model.named_parameters(remove_duplicate=False)
            weights = [(name, parameter.detach()) for name, parameter in named]
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            # Keys and values of prompts that the old weights read.
            self._llm.reset_prefix_cache()
            self._stale = False
        return self._llm

    def _refuse_far(self, gaps: Sequence[Tensor]) -> None:
        gap = float(torch.cat(list(gaps)).mean())
        if not gap <= self._gap_limit:
            raise ValueError(
                f"vLLM's log-probs are {gap:.3g} nats per token from the student's own, more than "
                f"rounding explains ({self._gap_limit:g}): its weights or its law are not the "
                "student's; set rollout.engine=native"
            )


def _alone(tokens: int) -> Tally:
    """A student alone settles each token that it drafts, in a row's round of its own; how vLLM
    shares them out among its rows is not told."""
    return Tally(
        tokens=tokens, row_rounds=tokens, student_tokens=tokens, tried=tokens, stayed=tokens
    )


def _seed(seed: int, request: Request) -> int:
    """One seed per (run, request): equal ones would draw equal noise."""
    return int.from_bytes(blake2b(f"{seed} {request.id}".encode(), digest_size=7).digest())


def _behaviour_logp(logp: Tensor, temperature: float) -> Tensor:
    # A greedy token is certain; vLLM then still gives the law's own log-prob.
    return torch.zeros_like(logp) if temperature == 0.0 else logp


def _gaps(
    found: Sequence[tuple[Tensor, Tensor]], own: Sequence[Said], temperature: float
) -> list[Tensor]:
    """Per token, |vLLM's log-prob − the student's| of the law that vLLM's is of."""
    truths = [said.student_logp if temperature == 0.0 else said.law_logp for said in own]
    return [(logp - truth).abs() for (_, logp), truth in zip(found, truths, strict=False)]
