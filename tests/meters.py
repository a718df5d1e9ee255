"""What this process has measured so far."""

from functools import cache

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric


@cache
def _reader() -> InMemoryMetricReader:
    """A process has one provider, whoever asks first."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


def measured() -> dict[str, Metric]:
    """Every metric by its name. Nothing is recorded before the first call."""
    data = _reader().get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
