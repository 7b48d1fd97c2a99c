"""Where stories take place, and the cron expressions that they draw. Above: `cases.py`."""

from datetime import datetime
from random import Random

from tests.scheduling.wall import MONTHS, WEEKDAYS

# A zone and a moment that each story there has in it. Most are shifts of the wall clock.
PLACES = (
    ("Europe/Vienna", "2026-03-29T01:00"),
    ("Europe/Vienna", "2026-10-25T01:00"),
    ("Europe/Dublin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("America/Santiago", "2026-04-05T03:00"),
    ("America/Santiago", "2026-09-06T04:00"),
    ("Asia/Beirut", "2026-03-28T22:00"),
    ("Asia/Beirut", "2026-10-24T21:00"),
    ("Africa/Cairo", "2026-04-23T22:00"),
    ("Africa/Cairo", "2026-10-29T21:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Africa/Casablanca", "2026-03-22T02:00"),
    ("Pacific/Chatham", "2026-04-04T14:00"),
    ("Pacific/Chatham", "2026-09-26T14:00"),
    ("America/St_Johns", "2026-03-08T05:30"),
    ("America/St_Johns", "2026-11-01T04:30"),
    ("America/St_Johns", "2010-03-14T03:31"),  # at one minute past midnight
    ("America/St_Johns", "2010-11-07T02:31"),
    ("America/Havana", "2026-11-01T05:00"),
    ("Antarctica/Troll", "2026-03-29T01:00"),  # two hours
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("Asia/Pyongyang", "2018-05-04T15:00"),  # from 23:30 to midnight
    ("Asia/Tehran", "2022-03-21T20:30"),
    ("America/Nuuk", "2024-03-31T01:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day
    ("UTC", "2026-12-31T23:00"),
    ("UTC", "2028-02-29T12:00"),
    ("Asia/Kolkata", "2026-04-30T15:00"),
    ("Asia/Kolkata", "2026-07-15T06:00"),
    ("Europe/Vienna", "2026-01-31T20:00"),
    ("Europe/Vienna", "2026-06-05T08:00"),
    ("America/New_York", "2026-05-29T16:00"),
    ("America/St_Johns", "2026-08-31T03:00"),
    ("Pacific/Chatham", "2026-02-28T09:00"),
    ("Pacific/Kiritimati", "2026-06-30T10:00"),
    ("Asia/Kathmandu", "2026-09-25T18:00"),
    ("America/Santiago", "2026-12-11T14:00"),
    ("Australia/Lord_Howe", "2026-07-31T12:00"),
    ("Africa/Casablanca", "2026-11-30T22:00"),
)

NICKNAMES = ("@hourly", "@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly")


def expression(random: Random, wall: datetime) -> str:
    """Draw a cron expression that has something to do with `wall`, the time shown at the shift."""
    if random.random() < 0.08:
        return random.choice(NICKNAMES)
    minute, hour = random.choice((_sparse, _through_the_day, _through_the_day, _around))(
        random, wall
    )
    day, month, weekday = _days(random, wall)
    return f"{minute} {hour} {day} {month} {weekday}"


def _minute(random: Random) -> str:
    first = random.randrange(0, 60, random.choice((1, 5, 15)))
    second = random.randrange(60)
    plain = str(first)
    return random.choice((plain, plain, f"{min(first, second)},{max(first, second)}"))


def _sparse(random: Random, wall: datetime) -> tuple[str, str]:
    """A few named hours."""
    hours = sorted(random.sample(range(24), random.randint(1, 4)))
    low, high = min(hours), max(hours)
    step = random.randint(1, 6)
    ways = (",".join(map(str, hours)), f"{low}-{high}/{step}", "9-17/2", str(hours[0]))
    return _minute(random), random.choice(ways)


def _through_the_day(random: Random, wall: datetime) -> tuple[str, str]:
    """A star in one field: it follows the clock. Or what looks like one and is none."""
    every = random.choice((5, 10, 15, 20, 30, 45))
    hour = (wall.hour + random.randint(-2, 1)) % 24
    ways = (
        (_minute(random), "*"),
        (_minute(random), f"*/{random.randint(2, 8)}"),
        (f"*/{every}", f"{hour}"),
        (f"*/{every}", f"{min(hour, 21)}-{min(hour, 21) + 2}"),
        (f"0-59/{every}", f"{hour},{(hour + 6) % 24}"),
        (_minute(random), f"0-23/{random.randint(1, 4)}"),
        (f"*/{every}", "*/4"),
        (f"*/{every}", "*"),
    )
    return random.choice(ways)


def _around(random: Random, wall: datetime) -> tuple[str, str]:
    """Minutes of the hours next to the shift, named one by one."""
    hours = sorted({(wall.hour + random.randint(-2, 2)) % 24 for _ in range(random.randint(1, 3))})
    minutes = sorted(random.sample(range(0, 60, random.choice((1, 5, 15))), random.randint(1, 4)))
    return ",".join(map(str, minutes)), ",".join(map(str, hours))


def _days(random: Random, wall: datetime) -> tuple[str, str, str]:
    """Day of the month, month, day of the week."""
    if random.random() < 0.5:
        return "*", "*", "*"
    name = WEEKDAYS[(wall.weekday() + 1 + random.randint(-1, 1)) % 7]
    number = random.choice((7, 0)) if name == "SUN" else WEEKDAYS.index(name)
    near = (wall.day + random.randint(-1, 1) - 1) % 28 + 1
    nth = min((wall.day + 6) // 7, 4)
    month = random.choice(("*", "*", str(wall.month), MONTHS[wall.month - 1].lower(), "*/2"))
    day = random.choice(("*", "*", str(near), f"{near},15", "*/2", "L", "LW", "1-31/3", "10-20"))
    ways = ("*", "*", name, name.lower(), str(number), "MON-FRI", "1-5", f"{name}#{nth}")
    weekday = random.choice((*ways, f"{number % 7}L", f"{name},WED", "*/2"))
    return day, month, weekday
