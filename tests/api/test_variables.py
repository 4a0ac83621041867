"""Variables that look like settings and set nothing are named, whoever reads them."""

from aweigh_api.variables import without_effect

KNOWN = ("AWEIGH_CACHE_DIR", "AWEIGH_PORT", "AWEIGH_ADMIN_PORT")


def test_a_misspelt_variable_is_named_with_the_nearest_that_is_read() -> None:
    (near,) = without_effect(["AWEIGH_CACHE_DR", "AWEIGH_PORT", "PATH"], KNOWN, "aweigh-router")
    assert near == (
        "AWEIGH_CACHE_DR has no effect: no setting of `aweigh-router` has that name; "
        "did you mean AWEIGH_CACHE_DIR?"
    )
    (far,) = without_effect(["AWEIGH_COLOUR"], KNOWN, "aweigh-router")
    assert far.endswith("`aweigh-router --help` lists the flags")


def test_what_kubernetes_sets_for_services_is_nobodys_mistake() -> None:
    def links(service: str) -> list[str]:
        port = f"{service}_PORT_8000_TCP"
        ends = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT")
        return [f"{service}_{end}" for end in ends] + [port, f"{port}_ADDR", f"{port}_PROTO"]

    for service in ("AWEIGH", "AWEIGH_CHAT", "AWEIGH_OPERATOR_METRICS"):
        assert without_effect(links(service), KNOWN, "aweigh serve") == []
    assert len(without_effect(["AWEIGH_CHAT_PORT", "AWEIGH_PROT"], KNOWN, "aweigh serve")) == 2
