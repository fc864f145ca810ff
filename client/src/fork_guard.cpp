#include "client/src/fork_guard.hpp"

#include <pthread.h>

#include <mutex>

namespace ringlaunch::detail {

// The list and its lock. The lock is held across fork(), so that the child finds the list whole and the lock
// its own.
class ForkRegistry {
  public:
    static ForkRegistry& instance() {
        static ForkRegistry* registry =
            new ForkRegistry;  // never destroyed: handlers may run until the process ends
        return *registry;
    }

    void add(ForkGuarded* object) {
        const std::lock_guard lock(mutex_);
        object->next_ = first_;
        if (first_ != nullptr) first_->previous_ = object;
        first_ = object;
    }

    void remove(ForkGuarded* object) {
        const std::lock_guard lock(mutex_);
        if (object->previous_ != nullptr)
            object->previous_->next_ = object->next_;
        else
            first_ = object->next_;
        if (object->next_ != nullptr) object->next_->previous_ = object->previous_;
    }

  private:
    ForkRegistry() {
        ::pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                         [] {
                             ForkRegistry& registry = instance();
                             for (ForkGuarded* object = registry.first_; object != nullptr;
                                  object = object->next_)
                                 object->after_fork_in_child();
                             registry.mutex_.unlock();
                         });
    }

    std::mutex mutex_;
    ForkGuarded* first_ = nullptr;
};

void ForkGuarded::guard() {
    ForkRegistry::instance().add(this);
    guarded_ = true;
}
void ForkGuarded::unguard() {
    if (guarded_) ForkRegistry::instance().remove(this);
    guarded_ = false;
}

}  // namespace ringlaunch::detail
