"""Markdown tables."""


class Table:
    """A Markdown table whose rows can be printed as they are measured.

    columns: titles, each with an optional format, as in "rows:," or "seconds:.2f".  A value of None becomes "-"; a str
    is inserted as it is.
    """

    def __init__(self, *columns):
        self.titles, self.formats = zip(*(column.partition(":")[::2] for column in columns), strict=True)

    def head(self):
        """The first two lines."""
        return f"{_line(self.titles)}\n{_line(['---'] * len(self.titles))}"

    def row(self, *values):
        """One line; missing values at its end are left empty."""
        padded = (*values, *[""] * (len(self.formats) - len(values)))
        return _line(_cell(value, form) for value, form in zip(padded, self.formats, strict=True))

    def text(self, rows):
        """The whole table, of rows of values."""
        return "\n".join([self.head(), *(self.row(*row) for row in rows)])

    def start(self):
        """Print the first two lines; the table itself, so that it can be assigned in the same statement."""
        print(self.head(), flush=True)
        return self

    def add(self, *values):
        """Print one line."""
        print(self.row(*values), flush=True)


def _cell(value, form):
    if value is None:
        return "-"
    return value.replace("|", "\\|") if isinstance(value, str) else f"{value:{form}}"


def _line(cells):
    return f"| {' | '.join(cells)} |"
