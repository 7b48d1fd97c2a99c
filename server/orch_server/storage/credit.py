"""Limited accounts in the store."""

from __future__ import annotations

from dataclasses import asdict

from orch_server.core.alert import NewAlert, Severity
from orch_server.core.credit import CreditHold
from orch_server.storage.alerts import raise_alert
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import CreditHoldRow


def load_all(db: Database) -> dict[str, CreditHold]:
    """The last hold of each account, by its name."""
    return {
        row.credential: CreditHold(**row.fields()) for row in CreditHoldRow.select().execute(db)
    }


def save(tx: Transaction, hold: CreditHold, actor: str) -> None:
    """Writes a hold that begins, changes or is over."""
    fields = asdict(hold)
    (
        CreditHoldRow.insert(**fields)
        .on_conflict(conflict_target=[CreditHoldRow.credential], update=fields)
        .execute(tx.db)
    )
    kind = "credit.held" if hold.released_at is None else "credit.released"
    until = "" if hold.released_at else f"until {hold.ends_at:%Y-%m-%dT%H:%M:%SZ}: {hold.detail}"
    tx.emit(kind, hold.credential, actor=actor, detail=until)


def tell(tx: Transaction, hold: CreditHold) -> None:
    """Raises the alert for a new hold."""
    known = "" if hold.reset_known else " (a guess, since no time was said)"
    text = (
        f"Account {hold.credential} has met its usage limit ({hold.source}: {hold.detail}); its"
        f" agents are held until {hold.ends_at:%Y-%m-%d %H:%M} UTC{known}."
    )
    raise_alert(tx, NewAlert(Severity.INFO, "usage-limited", hold.credential, text))
