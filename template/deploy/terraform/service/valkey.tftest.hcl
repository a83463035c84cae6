# `terraform test`, without an account, as in service.tftest.hcl.

mock_provider "aws" {
  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "xxxxxxxxxxxxxxxx" }
  }
}

run "valkey" {
  module {
    source = "./valkey"
  }
  variables {
    name                 = "shop-production"
    production           = true
    vpc_id               = "vpc-1"
    subnets              = ["subnet-1", "subnet-2"]
    key_arn              = "arn:aws:kms:eu-central-1:111111111111:key/mock"
    tasks_security_group = "sg-tasks"
    password_arn         = "arn:valkey"
    password_version     = 1
  }
  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_enabled && aws_elasticache_replication_group.this.auth_token == "xxxxxxxxxxxxxxxx"
    error_message = "Valkey must ask for TLS and a password."
  }
  assert {
    condition     = aws_elasticache_replication_group.this.at_rest_encryption_enabled && aws_elasticache_replication_group.this.multi_az_enabled
    error_message = "Valkey is to be encrypted, and in production in two zones."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.tasks.referenced_security_group_id == "sg-tasks"
    error_message = "Only the tasks may reach Valkey."
  }
}
