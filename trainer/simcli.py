"""`dofbot simulate`, `dofbot demo` and `dofbot soak`: the whole pipeline without hardware."""

import threading
from pathlib import Path
from typing import Annotated

import typer

POLICY = Path("trainer/results/policy.onnx")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(simulate)
    app.command()(demo)
    app.command()(soak)


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 takes a free one.")] = 5555,
    seed: Annotated[int, typer.Option(help="Of the blocks that are fed.")] = 0,
    policy: Annotated[Path | None, typer.Option(help="Policy file whose task is set up; without it, the task that we train.")] = None,
) -> None:
    """Serve a simulated arm, camera and desk until Ctrl-C; `dofbot run` drives it like a real one."""
    from edge.policy import load
    from trainer import spec
    from trainer.desk import Desk
    from trainer.server import SimulatorServer

    contract = load(policy).contract if policy else spec.contract()
    desk = Desk(contract, seed)
    server = SimulatorServer(desk, port)
    typer.echo(f"simulated DOFBOT (PyBullet; no hardware is touched) on 127.0.0.1:{server.port}, seed {seed}; Ctrl-C ends it")
    try:
        server.serve(threading.Event())  # which nobody sets
    except KeyboardInterrupt:
        picked = sum(result.picked for result in desk.results)
        typer.echo(f"\n{picked} of {len(desk.results)} blocks picked; the simulation lost {server.late_s:.2f} s against wall time")
    finally:
        desk.close()


def demo(
    policy: Annotated[Path, typer.Option(help="Policy file.")] = POLICY,
    grasps: Annotated[int, typer.Option(min=1, help="Blocks to pick up.")] = 20,
    real: Annotated[int, typer.Option(min=1, help="How many of them in real time, to measure it; the others as fast as can be.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the blocks.")] = 0,
    out: Annotated[Path, typer.Option(help="Where demo.gif, map.png and demo.json go.")] = Path("out/demo"),
    json: Annotated[bool, typer.Option("--json", help="Print demo.json instead of the table.")] = False,
) -> None:
    """Pick blocks up with the runtime itself, on a simulated arm; exit code 1 below 90 %."""
    from trainer import demo as demonstration

    settings = demonstration.Settings(policy, grasps, min(real, grasps), seed, out)
    if not demonstration.run(settings, as_json=json):
        raise typer.Exit(1)


def soak(
    hours: Annotated[float, typer.Option(min=0.001, help="How long, on the clock of the loop.")] = 24.0,
    real: Annotated[bool, typer.Option("--real", help="On the real clock; without it as fast as can be.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the faults, the person and the blocks.")] = 0,
    policy: Annotated[Path, typer.Option(help="Policy file.")] = POLICY,
    out: Annotated[Path, typer.Option(help="Where soak.md, soak.png and soak.json go.")] = Path("out/soak"),
    json: Annotated[bool, typer.Option("--json", help="Print soak.json instead of the table.")] = False,
) -> None:
    """Run the runtime for hours on a simulated arm, with faults all the time; exit code 1 after an unsafe command or a crash.

    Ctrl-C ends it early and writes what was found until then.
    """
    from trainer import soak as soaking
    from trainer import soak_report

    settings = soaking.Settings(policy, hours, real, seed)
    with soak_report.progress(hours) as show, soaking.interruptible() as stop:
        found = soaking.run(settings, stop, show)
    given = f"dofbot soak --hours {hours:g}{' --real' if real else ''} --seed {seed} --out {out}"
    soak_report.write(found, out, given)
    if json:
        typer.echo((out / "soak.json").read_text())
    else:
        soak_report.show(found, out)
    if not found.is_good:
        raise typer.Exit(1)
