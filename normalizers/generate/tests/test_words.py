from rulegen.words import kebab, norm, noun_in, role, singular, split_operation


def test_an_operation_is_a_verb_and_a_noun():
    assert split_operation("BatchDeleteImage") == ("delete", "Image")
    assert split_operation("CreateDBCluster") == ("create", "DBCluster")
    assert [role(verb) for verb in ("create", "terminate", "put", "reboot")] == ["create", "delete", "upsert", "update"]


def test_a_noun_is_one_and_without_version_where_nothing_is_called_so():
    assert noun_in("ClusterV2", {"cluster"}) == "cluster"
    assert noun_in("HubV2", {"hub", "hubv2"}) == "hubv2"
    assert [singular(norm(word)) for word in ("Policies", "Addresses", "Status", "Aliases", "Dns")] == ["policy", "address", "status", "alias", "dns"]


def test_kebab_is_that_of_the_generic_rules():
    assert [kebab(word) for word in ("DBInstance", "OriginAccessControl", "EIP")] == ["db-instance", "origin-access-control", "eip"]
