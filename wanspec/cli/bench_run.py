"""What ``wanspec bench`` runs: on two regions of its own, or on an endpoint that is there already."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wanspec.bench.meter import Meter
from wanspec.bench.native import NATIVE, NativeTarget
from wanspec.bench.results import Conditions, Results
from wanspec.bench.runner import Plan, Runner
from wanspec.bench.session import STRICT_DTYPE, Session
from wanspec.cli.endpoint import endpoint_parameters
from wanspec.cli.machine import describe_machine
from wanspec.cli.progress import running, waiting
from wanspec.cli.regions import MOST_RTT_MS, Pace, choose_models, engines, link_shape, model_names
from wanspec.cli.render import find_tokenizer, make_console
from wanspec.cli.report import write_answers
from wanspec.cli.simulation_options import contenders, progress
from wanspec.core.policies import make_policy
from wanspec.errors import ConfigError, InvalidRequestError, ServerError
from wanspec.network.shape import LinkShape
from wanspec.prompts import bench_prompts
from wanspec.simulation.setup import Contender
from wanspec.simulation.timings import timing
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import DEFAULT_LEAVES, RegionSettings, with_stored_costs

REPORTED = 8
"""Prompts in the HTML report."""
CAPACITY_ANSWERS = 2
"""Of each policy, at least, for each number of sequences at once."""


def bench_own(options: dict[str, Any]) -> Results:
    """Start both regions, run, stop them.

    Raises:
        WanspecError: an option cannot work, or the measurement failed.
    """
    rtts, scale = options["rtts"], options["time_scale"]
    plan = _plan(options, scale)
    shapes = {rtt: _shape(options, rtt) for rtt in rtts}
    pace = _pace(options["profile"])
    pair = options["pair"] or (None if options["target"] or options["draft"] else "small")
    dtype = options["dtype"] or (STRICT_DTYPE if pair == "small" else "float32")
    names = ("weights", "device", "worker_device", "threads")
    each = engines(pace, dtype=dtype, **{name: options[name] for name in names})
    target, draft = choose_models(pair, options["target"], options["draft"])
    settings = {"time_scale": scale, "streams": options["streams"], "max_leaves": options["leaves"]}
    regions, _ = with_stored_costs(RegionSettings(target, draft, *each, **settings))
    with ExitStack() as stack:
        if options["capacity"]:
            gpu = stack.enter_context(TemporaryDirectory(prefix="wanspec-gpu-"))
            regions = replace(
                regions,
                shared_gpu=gpu,
                target=replace(regions.target, max_batch_size=options["max_batch_size"]),
                local_draft=replace(regions.local_draft, max_batch_size=options["max_batch_size"]),
            )
        deployment = Deployment(DeploymentSettings(regions, shapes[rtts[0]]))
        stack.enter_context(running(deployment))
        session = Session(deployment.controller.grpc_endpoint, ignore_end=options["ignore_end"])
        conditions = Conditions(
            time.strftime("%Y-%m-%d"),
            describe_machine(),
            " and ".join(model_names(pair, options["target"], options["draft"])),
            dtype,
            options["profile"] or "",
            (pace.target, pace.draft, pace.worker),
            scale,
            options["tokens"],
            plan.contenders[0].name,
            _network(options),
            notes=() if options["leaves"] == DEFAULT_LEAVES else (f"Worker passes of {options['leaves']} leaves.",),
            shared_gpu=bool(options["capacity"]),
            k=options["k"],
            max_batch_size=options["max_batch_size"] if options["capacity"] else 0,
        )

        def set_rtt(rtt_ms: float) -> None:
            deployment.relay.set(delay_ms=rtt_ms / 2)

        results = _run(session, plan, Meter(deployment), set_rtt, conditions, options["report"])
        for server in (deployment.controller, deployment.worker):
            if not server.running:
                raise ServerError(f"server {server.name}: it ended while it was measured; see its log: {server.log}")
    for server in () if options["keep_logs"] or not results.exact else (deployment.controller, deployment.worker):
        server.log.unlink(missing_ok=True)
    return results


def bench_running(options: dict[str, Any]) -> Results:
    """Run on an endpoint that is there already.

    Raises:
        WanspecError: an option cannot work, or the measurement failed.
    """
    url, tls = options["url"], options["tls"]
    plan = _plan(options, 1.0)
    endpoint_parameters(WanspecClient(url, tls=tls), url)
    session = Session(url, ignore_end=options["ignore_end"], tls=tls)
    text = plan.prompts[0].text(session.chat)
    rtt = session.ask(text, "adaptive", max_tokens=8).result().summary["rtt_ms"] or 0.0
    engine, draft = session.target_parameters, session.parameters.get("draft_model", "")
    scale = float(engine.get("time_scale") or 1.0)
    paces = [float(engine.get("pace_ms") or 0.0)]
    paces.append(float(WanspecClient(url, model=draft, tls=tls).parameters().get("pace_ms") or 0.0) if draft else 0.0)
    conditions = Conditions(
        time.strftime("%Y-%m-%d"),
        describe_machine(),
        " and ".join(Path(session.parameters.get(name, "")).name for name in ("target_dir", "draft_dir")),
        engine.get("dtype", "unknown precision"),
        "as it was found" if any(paces) else "",
        (paces[0], paces[1], 0.0),
        scale,
        options["tokens"],
        plan.contenders[0].name,
        "the network between the regions as it is",
        ("The endpoint was running already; the machine is that of the client.",),
    )
    plan = replace(plan, rtts_ms=(round(rtt / scale, 1),), time_scale=scale)
    return _run(session, plan, Meter(None), None, conditions, options["report"])


def _run(
    session: Session,
    plan: Plan,
    meter: Meter,
    set_rtt: Callable[[float], None] | None,
    conditions: Conditions,
    report: Path | None,
) -> Results:
    console = make_console(stderr=True)

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False, soft_wrap=True)

    notes = list(conditions.notes)
    if not NativeTarget(session).available:
        plan = replace(plan, contenders=tuple(each for each in plan.contenders if each.policy != NATIVE))
        notes.append(f"{NATIVE} is left out: the target is decoupled and takes no unary request.")
    if set_rtt is not None:
        session.await_worker(plan.prompts[0].text(session.chat), "remote_sync")
    with progress(plan.requests, "measuring", "answers") as tell:
        runner = Runner(session, plan, meter, set_rtt, tell=tell, say=say)
        runner.run()
    if report is not None:
        with waiting("asking again, for the report"):
            _report(report, session, plan)
    return Results(replace(conditions, notes=(*notes, *runner.notes)), tuple(runner.samples), tuple(runner.usages))


def _report(path: Path, session: Session, plan: Plan) -> None:
    """Write where the time of some answers went: asked again, so that keeping logs has no part in what was measured."""
    answers = [
        (f"{contender.name}, prompt {number}", _logged(session, plan, contender, prompt.text(session.chat)))
        for number, prompt in enumerate(plan.prompts[:REPORTED])
        for contender in plan.contenders
        if contender.policy != NATIVE
    ]
    notes = [f"One answer at a time, asked again after the measurement, at RTT {plan.rtts_ms[-1]:g} ms."]
    if plan.time_scale != 1.0:
        notes.append(f"All times are {plan.time_scale:g} times as long as in the benchmark's tables.")
    write_answers(path, answers, find_tokenizer(session.parameters), title="WANSpec bench", notes=notes)


def _logged(session: Session, plan: Plan, contender: Contender, prompt: str) -> list[str]:
    pending = session.ask(prompt, contender.policy, contender.parameters, plan.tokens, event_log=True)
    return pending.result().event_log


def _plan(options: dict[str, Any], time_scale: float) -> Plan:
    """What to run.

    Raises:
        ConfigError: a policy, one of its parameters, or a number is out of its limits.
    """
    baseline = Contender("local", {"k": options["k"]}, "local")
    asked = [each for each in contenders(options["policy"]) if each.name != baseline.name]
    for each in asked:
        try:
            make_policy(each.policy, each.parameters)
        except InvalidRequestError as error:
            raise ConfigError("policy", f"{each.name}: {error}") from error
    most = max(options["concurrency"])
    if most > options["prompts"]:
        raise ConfigError("prompts", f"{options['prompts']} are fewer than the {most} requests at once; give {most}")
    native = () if options["capacity"] else (Contender(NATIVE),)
    return Plan(
        (baseline, *{each.name: each for each in asked}.values(), *native),
        options["rtts"],
        options["concurrency"],
        tuple(bench_prompts(options["prompts"])),
        options["tokens"],
        options["warm_up"],
        time_scale,
        CAPACITY_ANSWERS if options["capacity"] else 0,
    )


def _shape(options: dict[str, Any], rtt_ms: float) -> LinkShape:
    if rtt_ms > MOST_RTT_MS:
        raise ConfigError("rtts", f"{rtt_ms:g} is above {MOST_RTT_MS:g} ms")
    return link_shape(rtt_ms, options["jitter_ms"], options["rate_mbps"], options["loss"], options["time_scale"])


def _network(options: dict[str, Any]) -> str:
    parts = ["WAN emulated by a relay"]
    parts += [f"jitter {options['jitter_ms']:g} ms each way"] if options["jitter_ms"] else []
    parts += [f"{options['rate_mbps']:g} Mbit/s"] if options["rate_mbps"] else []
    parts += [f"{options['loss']:.2%} of packets lost"] if options["loss"] else []
    parts += [f"{options['streams']} connections"] if options["streams"] > 1 else []
    return ", ".join(parts)


def _pace(profile: str | None) -> Pace:
    if profile is None:
        return Pace()
    try:
        costs = timing(profile).costs
    except ConfigError as error:
        raise ConfigError("profile", str(error).partition(": ")[2]) from error
    return Pace(costs.target_ms, costs.draft_ms, costs.pass_ms)
