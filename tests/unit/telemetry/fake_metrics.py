"""Stands for Triton's custom metrics, as strict as they are."""

from __future__ import annotations

from bisect import bisect_left


class FakeMetric:
    """One time series."""

    def __init__(self, kind, labels, buckets=None):
        assert (buckets is not None) is (kind == "histogram")
        self.kind, self.labels = kind, labels
        self.total = 0.0
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1) if buckets is not None else []

    def increment(self, value):
        assert self.kind == "counter"
        assert value >= 0
        self.total += value

    def set(self, value):
        assert self.kind == "gauge"
        self.total = value

    def observe(self, value):
        assert self.kind == "histogram"
        self.total += value
        self.counts[bisect_left(self.buckets, value)] += 1


class FakeTriton:
    """Stands for ``triton_python_backend_utils``; ``series`` has what is exported, by name and labels."""

    def __init__(self):
        self.series = series = {}
        families = set()

        class Family:
            """Stands for MetricFamily."""

            COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

            def __init__(self, name, description, kind):
                assert name not in families
                assert description
                families.add(name)
                self._name, self._kind = name, kind

            def Metric(self, labels, buckets=None):  # noqa: N802
                key = self._name, tuple(sorted(labels.items()))
                assert key not in series
                series[key] = FakeMetric(self._kind, labels, buckets)
                return series[key]

        self.MetricFamily = Family

    def value(self, name, **labels):
        return self.series[name, tuple(sorted(labels.items()))].total

    def sum(self, name, **labels):
        """Of all series that have these labels."""
        return sum(
            each.total for (of, _), each in self.series.items() if of == name and labels.items() <= each.labels.items()
        )

    def names(self):
        return {name for name, _ in self.series}
