"""Bookings of two Portuguese hotels by day of arrival. There is no guest id: demand only.

Source: Antonio, de Almeida, Nunes, "Hotel booking demand datasets", Data in Brief 22 (2019), CC BY 4.0.
"""

import polars as pl

from contracts import columns as c
from contracts.errors import SourceError
from contracts.sections.source import ColumnMapping, SourceConfig
from sources.datasets.declaration import Declaration, filled
from sources.readers import ROW


def declare(source: SourceConfig) -> Declaration:
    """One event a booking that was kept, at midnight of the day of arrival: what is in demand is the night, not the click.

    Quantity is nights (at least one), price the average daily rate, value the days between booking and arrival. Each booking is its own
    user, so that `buyers` counts bookings. Cancelled bookings are set aside.
    """
    if source.uri is None:
        raise SourceError(
            "source.uri is missing: hotel_bookings are not shipped. Set it, e.g. to `${PERENNIAL_DATA}/hotel_booking_demand/hotel_bookings.parquet`."
        )
    return Declaration(
        filled(
            source,
            columns=ColumnMapping(
                user_id="booking",
                item_id="room",
                event_time="arrival",
                quantity="nights",
                price="adr",
                value="lead_time",
                platform="distribution_channel",
                region="country",
            ),
            default_event_type="booking",
            has_users=False,
        ),
        prepare=_prepare,
        rules={"cancelled": pl.col("is_canceled").cast(pl.Int64) != 0},
        catalogue_of_events=_catalogue,
    )


def _prepare(raw: pl.LazyFrame) -> pl.LazyFrame:
    day = pl.format("{} {} {}", "arrival_date_year", "arrival_date_month", "arrival_date_day_of_month")
    nights = pl.col("stays_in_weekend_nights").cast(pl.Int64) + pl.col("stays_in_week_nights").cast(pl.Int64)
    return raw.with_columns(
        booking=pl.format("booking-{}", ROW),
        room=pl.format("{}, room {}", "hotel", pl.col("reserved_room_type").str.strip_chars()),
        arrival=day.str.to_date("%Y %B %d", strict=False),
        nights=nights.clip(lower_bound=1),
    )


def _catalogue(bookings: pl.LazyFrame) -> pl.LazyFrame:
    rooms = bookings.select(pl.col("room").alias(c.ITEM_ID), pl.col("hotel").alias(c.CATEGORY), pl.col("room").alias(c.TITLE))
    return rooms.unique(c.ITEM_ID).sort(c.ITEM_ID)
