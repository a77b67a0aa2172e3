"""The first line of a study's report is its answer with the uncertainty."""

from __future__ import annotations

from dst.studies.lottery import answer


def rounds(dense: float, *tickets: float, reinit: float = 0.9) -> list[dict]:
    row = {"share": 1.0, "ticket": {"accuracy": dense}}
    pruned = [
        {"share": 0.8**i, "ticket": {"accuracy": x}, "reinit": {"accuracy": reinit}}
        for i, x in enumerate(tickets, start=1)
    ]
    return [row, *pruned]


def test_one_seed_names_the_smallest_ticket_that_is_as_good_as_dense():
    assert answer.tickets([rounds(0.97, 0.975, 0.97, 0.93)]) == (
        "The smallest ticket that is at least as accurate as the dense network (97.0 %) has 64 % "
        "of the weights (one seed: no interval); it is 7.0 points above the same masks with new "
        "initial weights."
    )
    assert answer.tickets([rounds(0.97, 0.96)]).startswith("No ticket is as accurate as the dense")
    assert answer.tickets([rounds(0.97)]).startswith("There is no answer yet")


def test_three_seeds_judge_tickets_by_a_paired_interval():
    seeds = [rounds(0.97, 0.968, 0.93), rounds(0.96, 0.962, 0.92), rounds(0.98, 0.979, 0.94)]
    # Differences of the first ticket: -0.2, 0.2 and -0.1 points; of the second -4 in each seed.
    assert answer.tickets(seeds) == (
        "Tickets of 80 % of the weights are not clearly less accurate than the dense network "
        "(97.0 %) (at most 0.6 points apart at 95 %, 3 paired seeds); they are 7.0 points above "
        "the same masks with new initial weights (95 % interval 4.8 to 9.1)."
    )
