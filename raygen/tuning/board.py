"""The actor between a sweep's trials, wherever they are, and the job that watches them."""

from raygen.training.control import Progress


class Board:
    """An actor that all trials tell how far they are, and ask whether to stop."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._notices: list[str] = []
        self._stop = False

    def exchange(self, number: int, progress: Progress) -> bool:
        self._progress[number] = progress
        return self._stop

    def notice(self, text: str) -> None:
        self._notices.append(text)

    def stop(self) -> None:
        self._stop = True

    def stopping(self) -> bool:
        return self._stop

    def state(self) -> tuple[dict[int, Progress], list[str]]:
        """Each trial's last progress, and all notices."""
        return self._progress, self._notices
