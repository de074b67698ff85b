"""Models behind an API, as subjects and as judges: bounded in calls, time and tries, and never paid for twice."""
