# Where all tasks count requests together, and what the rest of the service has to know of it.

module "valkey" {
  source               = "./valkey"
  name                 = local.name
  production           = local.production
  vpc_id               = module.network.vpc_id
  subnets              = module.network.data_subnets
  tasks_security_group = module.compute.security_group
  key_arn              = var.secrets.key_arn
  password_arn         = var.secrets.arns["valkey"]
  password_version     = var.secrets.versions["valkey"]
}

locals {
  shared_store = {
    secrets = { APP_VALKEY_URL = module.valkey.url_secret }
    reached = { valkey = { security_group = module.valkey.security_group, port = 6379 } }
    alarms = {
      valkey-memory = {
        metric    = "DatabaseMemoryUsagePercentage"
        namespace = "AWS/ElastiCache"
        of        = { CacheClusterId = module.valkey.first_node }
        statistic = "Maximum"
        limit     = 80
      }
    }
  }
}
