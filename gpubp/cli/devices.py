"""`gpubp devices`: what can be computed on here, and why not on more."""

import json

import click

from gpubp.cli.options import shared


@click.command(short_help="What can be computed on here, and why not on more.")
@shared
def command(device: str, seed: int, as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the CPU and every CUDA GPU; where there is no GPU, say why and what would mend it.

    \b
    gpubp devices
    gpubp devices --device cuda:1 --quiet

    With --device the exit code says whether that device can be used.
    """
    from gpubp import devices, get_backend

    get_backend(device)
    rows = devices()
    if as_json:
        click.echo(json.dumps({"devices": rows}))
        return
    for row in rows:
        facts = row.get("reason") or f"{row['name']}, {row['library']}"
        click.echo(f"{row['device']:8} {'available' if row['available'] == 'yes' else 'not available'}: {facts}")
