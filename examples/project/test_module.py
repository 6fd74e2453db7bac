"""Tests that share an instance, each as if it were its own."""


def test_leaves_a_key(two_brokers):
    two_brokers.kvs.put("left.behind", "1")


def test_does_not_see_it(two_brokers):
    assert not two_brokers.kvs.exists("left.behind")
