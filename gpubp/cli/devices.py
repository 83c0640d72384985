"""`gpubp devices`: what can be computed on here, and why not on more."""

import json

import click


@click.command(short_help="What can be computed on here, and why not on more.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(as_json: bool) -> None:
    """List the CPU and every CUDA GPU; where there is no GPU, say why and what would mend it."""
    from gpubp import devices

    rows = devices()
    if as_json:
        click.echo(json.dumps({"devices": rows}))
        return
    for row in rows:
        facts = row.get("reason") or f"{row['name']}, {row['library']}"
        click.echo(f"{row['device']:8} {'available' if row['available'] == 'yes' else 'not available'}: {facts}")
