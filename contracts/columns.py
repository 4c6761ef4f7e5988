"""Names of the columns that travel between steps. Nothing else types a column name of these tables again."""

from typing import Final

# interactions
EVENT_ID: Final = "event_id"
USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
EVENT_TIME: Final = "event_time"
EVENT_TYPE: Final = "event_type"
QUANTITY: Final = "quantity"
PRICE: Final = "price"
VALUE: Final = "value"
BASKET_ID: Final = "basket_id"
PLATFORM: Final = "platform"
PLATFORM_SEPARATOR: Final = "@"  # view@app: an event's type and platform where both stand in one column
REGION: Final = "region"
MONTH: Final = "month"

# item_catalogue
CATEGORY: Final = "category"
TITLE: Final = "title"
TEXT: Final = "text"
IMAGE_PATH: Final = "image_path"
AUDIO_PATH: Final = "audio_path"
AVAILABLE_FROM: Final = "available_from"
AVAILABLE_UNTIL: Final = "available_until"
CATEGORY_SEPARATOR: Final = " > "

# deletions
REQUESTED_AT: Final = "requested_at"

# vocabulary
ITEM_INDEX: Final = "item_index"

# training_events
EVENT_DAY: Final = "event_day"

# training_targets
IS_NEW: Final = "is_new"

# everything with a point in time
CUTOFF: Final = "cutoff"
REQUEST_DATE: Final = "request_date"
LEAD_DAYS: Final = "lead_days"
DATE: Final = "date"

# calendar
IS_HOLIDAY: Final = "is_holiday"

# demand and forecasts
LEVEL: Final = "level"
ID: Final = "id"
UNITS: Final = "units"
BUYERS: Final = "buyers"
IS_OBSERVED: Final = "is_observed"
ALL_REGIONS: Final = "all"
TOTAL: Final = "total"
ITEM: Final = "item"
MODEL: Final = "model"
MEAN: Final = "mean"

# item_weeks
WEEKS_AGO: Final = "weeks_ago"
FIRST_BUYERS: Final = "first_buyers"
LAST_BUYERS: Final = "last_buyers"
USERS: Final = "users"

# habits
BASKETS: Final = "baskets"
FIRST_DAY: Final = "first_day"
LAST_DAY: Final = "last_day"
DAYS: Final = "days"
INTERVAL_DAYS: Final = "interval_days"
ITEM_REPEAT_SHARE: Final = "item_repeat_share"
ITEM_INTERVAL_DAYS: Final = "item_interval_days"
USER_TRIPS: Final = "user_trips"
USER_TRIPS_45D: Final = "user_trips_45d"
USER_LAST_DAY: Final = "user_last_day"
LOG_FIRST_DAY: Final = "log_first_day"

# content
VECTOR: Final = "vector"

# rankings
LIST: Final = "list"
MODEL_VERSION: Final = "model_version"
RANK: Final = "rank"
SCORE: Final = "score"
TASTE: Final = "taste"
HABIT: Final = "habit"
SEASON: Final = "season"

# quarantine
RULE: Final = "rule"
BROKEN_RULES: Final = "broken_rules"
SOURCE_FILE: Final = "source_file"
SOURCE_ROW: Final = "source_row"
