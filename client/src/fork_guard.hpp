// Objects that a forked child must not use: told about it in the child, before fork() returns there.
#pragma once

namespace ringlaunch::detail {

// Stands in a list of the process while it lives. The list is consistent in a child, whatever other threads
// did.
class ForkGuarded {
  public:
    ForkGuarded() = default;
    ForkGuarded(const ForkGuarded&) = delete;
    ForkGuarded& operator=(const ForkGuarded&) = delete;

    // In the child, where only the forking thread lives: takes no lock and frees no memory, because another
    // thread of the parent may have held the lock or been half through a change.
    virtual void after_fork_in_child() noexcept = 0;

  protected:
    ~ForkGuarded() = default;
    // The last thing a constructor does, and the first of the destructor: between the two a fork finds it
    // whole.
    void guard();
    void unguard();

  private:
    friend class ForkRegistry;
    bool guarded_ = false;
    ForkGuarded* previous_ = nullptr;
    ForkGuarded* next_ = nullptr;
};

}  // namespace ringlaunch::detail
