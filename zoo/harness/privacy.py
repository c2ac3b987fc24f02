"""The privacy that noisy steps have spent, by Opacus's accountant of Renyi divergences."""

from __future__ import annotations

from zoo.errors import ZooError


def opacus_accountant() -> type:
    """Opacus's class, imported when first needed.

    Raises:
        ZooError: the optional extra is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        raise ZooError("update.step dp with delta needs Opacus's privacy accountant: pip install 'opd-zoo[dp]', or leave delta out") from None
    return RDPAccountant  # type: ignore[no-any-return]


class Accountant:
    """Counts steps of one noise multiplier and says the epsilon at `delta`."""

    def __init__(self, noise: float, delta: float) -> None:
        self.noise, self.delta, self._kind = noise, delta, opacus_accountant()
        self.history: list[tuple[float, float, int]] = []

    def count(self, rate: float) -> None:
        """One more step whose sequences are a share `rate` of the prompts."""
        if self.history and self.history[-1][:2] == (self.noise, rate):
            self.history[-1] = (self.noise, rate, self.history[-1][2] + 1)
        else:
            self.history.append((self.noise, rate, 1))

    def epsilon(self) -> float:
        """What is spent so far."""
        if self.noise == 0.0 or not self.history:
            return float("inf") if self.history else 0.0
        accountant = self._kind()
        accountant.history = list(self.history)
        return float(accountant.get_epsilon(delta=self.delta))
